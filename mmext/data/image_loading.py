"""How a config loads a person's images: scaled to 8 bits where they have more, in crops where they are large. No torch."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmext.data.crops import CropPlan, plan_crops
from mmext.data.grey_limits import Limits, limits_of_images
from mmext.data.image_pixels import PixelKind, pixel_kind
from mmext.data.image_scaling import PERCENTILES
from mmext.data.image_windows import is_tiff, open_windows
from mmext.data.large_image import alpha_of
from mmext.data.split import Part
from mmext.data.tile_files import is_large
from mmext.errors import InputError, raise_all, some

Progress = Callable[[str, int, int], None]

_LOADERS = ('LoadImageFromFile', 'LoadMicroscopeImage')
_OF_MASKS = ('LoadInstanceMasks', 'LoadAnnotations')
_RESIZING = ('Resize', 'RandomResize', 'RandomChoiceResize')
_MOST_NAMED = 5
_WIDTH = 118


@dataclass(frozen=True)
class Loading:
    """What init writes of loading: ``settings`` of mmext.LoadMicroscopeImage, None where the recipe's loading stays;
    ``crops`` to train on, None for whole images; ``bounded``: whether a crop can be read without the rest of the image;
    ``comments`` of the config; ``lines`` for the person."""

    settings: dict | None = None
    crops: CropPlan | None = None
    bounded: bool = False
    comments: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Image:
    part: str
    path: Path
    kind: PixelKind


def parse_channels(text: str) -> tuple[int, ...]:
    """``2,1,0`` or ``0`` as numbers.

    Raises:
        InputError: not one number from 0, or three.
    """
    words = [word.strip() for word in text.split(',')]
    if len(words) not in (1, 3) or not all(word.isdecimal() for word in words):
        raise InputError(
            f'--channels: {text!r}; it must be one number from 0, shown as grey, or three for red, green and blue: '
            '--channels 0 or --channels 2,1,0.'
        )
    return tuple(map(int, words))


def plan_loading(
    parts: Sequence[Part],
    input_scale: Sequence[int] | None,
    channels: Sequence[int] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Loading:
    """Look at the images of a data set, and say how they are to be loaded.

    Headers of all are read, and pixels of some that have more than 8 bits (:func:`mmext.data.grey_limits.limits_of_images`).

    Args:
        parts: train and val.
        input_scale: (width, height) into which the recipe fits an image; None where it does otherwise.
        channels: that the person asks for.
        seed: of the choice of images.
        progress: called with (what, done, all).

    Raises:
        InputError: all images at once that cannot be read or have channels of which none were chosen.
    """
    images = _look_at(parts, progress)
    _check_channels(images, channels)
    crops = plan_crops(parts[0].coco, input_scale) if input_scale else None
    by_stock = channels is None and all(image.kind.by_stock for image in images)
    if by_stock and crops is None:
        return Loading()
    settings = {} if channels is None else {'channels': tuple(channels)}
    comments, lines = [], []
    deep = [image for image in images if image.kind.deep]
    if deep:
        # three limits cannot scale a grey image
        apart = len(channels) == 3 if channels else all(image.kind.channels == 3 for image in deep)
        looked_at = [image.path for image in deep if image.part == 'train'] or [image.path for image in deep]
        limits = limits_of_images(looked_at, channels, apart, seed, progress)
        pairs = tuple(tuple(map(_number, pair)) for pair in limits.pairs)
        settings['limits'] = pairs if apart else pairs[0]
        comments.append(_about_limits(images, deep, limits, pairs))
        lines += _depth_lines(images, deep, pairs)
    elif not by_stock:
        comments.append('Images that LoadImageFromFile does not read as they are: channels are chosen, or in several pages.')
    bounded = False
    if crops:
        bounded = _bounded(parts[0], crops.side)
        comments.append(_about_crops(crops, is_large(parts[1].coco, crops.side)))
        lines.append(
            f'  {crops.reason} Trained on crops of {crops.side}x{crops.side} px around objects, {crops.times} an image and '
            f'epoch; predict with `mmext predict --tile {crops.side}`.'
        )
    return Loading(settings, crops, bounded, tuple(comments), tuple(lines))


def input_scale_of(pipeline: Sequence[Mapping]) -> tuple[int, int] | None:
    """(width, height) into which a pipeline fits images; None where it does otherwise."""
    scale = next((step['scale'] for step in pipeline if step['type'] == 'Resize' and step.get('scale')), None)
    return tuple(scale) if isinstance(scale, (tuple, list)) and len(scale) == 2 else None


def pipelines_text(loading: Loading, train: Sequence[Mapping], test: Sequence[Mapping]) -> str:
    """The config's lines for pipelines that load so: comments, ``load_image``, ``train_pipeline`` and ``test_pipeline``.

    Args:
        train: pipeline of the recipe.
        test: likewise.
    """
    comments = [
        textwrap.fill(comment, _WIDTH, initial_indent='# ', subsequent_indent='# ', break_on_hyphens=False)
        for comment in loading.comments
    ]
    crops = loading.crops
    first = 'dict(load_image, whole=False)' if crops and loading.bounded else 'load_image'
    cut = f'dict(type={"mmext.CropAroundInstance"!r}, size=({crops.side}, {crops.side}))' if crops else None
    return '\n'.join(
        [
            *comments,
            f'load_image = {_call({"type": "mmext.LoadMicroscopeImage", **loading.settings})}',
            _pipeline('train_pipeline', train, first, crops, cut),
            _pipeline('test_pipeline', test, 'load_image', crops, None),
        ]
    )


def _pipeline(name: str, steps: Sequence[Mapping], loader: str, crops: CropPlan | None, cut: str | None) -> str:
    lines = []
    for step in steps:
        kind = step['type'].rpartition('.')[2]
        if kind in _LOADERS:
            lines.append(loader)
        elif crops and kind in _RESIZING:
            lines.append(f"dict(type='Resize', scale_factor={crops.scale}, keep_ratio=True)")
        else:
            lines.append(_call(step))
        if cut and kind in _OF_MASKS:
            lines.append(cut)
    return f'{name} = [\n' + ''.join(f'    {line},\n' for line in lines) + ']'


def _call(step: Mapping) -> str:
    return f'dict({", ".join(f"{key}={value!r}" for key, value in step.items())})'


def _look_at(parts: Sequence[Part], progress: Progress | None) -> list[_Image]:
    """Every image of the parts with what its header says."""
    files = [(part, image['file_name']) for part in parts for image in part.coco.images]
    found, mistakes = [], []
    for done, (part, name) in enumerate(files, 1):
        path = part.folder / name
        try:
            found.append(_Image(part.name, path, pixel_kind(path)))
        except InputError as error:
            mistakes.append(str(error))
        if progress:
            progress('headers of images', done, len(files))
    more = len(mistakes) - _MOST_NAMED
    raise_all([*mistakes[:_MOST_NAMED], *([f'{more} more images have such faults.'] if more > 0 else [])])
    return found


def _check_channels(images: Sequence[_Image], channels: Sequence[int] | None) -> None:
    if channels is None:
        odd = [image for image in images if image.kind.channels not in (1, 3)]
        if odd:
            most = max(image.kind.channels for image in odd)
            which = '2,1,0' if most > 2 else '0,1,1'
            raise InputError(
                f'--channels: {len(odd)} of {len(images)} images have other than 1 or 3 channels, and which of them to show '
                f'is not said: {_named(odd)}. Give --channels 0 for one as grey, or three of 0 to {most - 1} for red, green '
                f'and blue, such as --channels {which}.'
            )
        return
    lacking = [image for image in images if image.kind.stored <= max(channels)]
    if lacking:
        raise InputError(
            f'--channels: {",".join(map(str, channels))} asks for channel {max(channels)}, counted from 0, which '
            f'{len(lacking)} of {len(images)} images do not have: {_named(lacking)}. Choose of those that all have.'
        )


def _named(images: Sequence[_Image]) -> str:
    return some((f'{image.path} has {image.kind.stored}' for image in images), 3)


def _about_limits(images: Sequence[_Image], deep: Sequence[_Image], limits: Limits, pairs: Sequence[tuple]) -> str:
    types = ', '.join(sorted({str(image.kind.dtype) for image in deep}))
    values = _range(pairs[0]) if len(pairs) == 1 else _ranges(pairs)
    low, high = PERCENTILES
    of = f'{limits.images} of the {limits.of}' if limits.images < limits.of else f'the {limits.of}'
    pixels = 'all pixels' if limits.whole else 'a part of the pixels'
    part = 'training images' if any(image.part == 'train' for image in deep) else 'validation images'
    return (
        f'{len(deep)} of {len(images)} images have more than 8 bits ({types}). Their grey values {values} become 0 to 255, '
        f'in training, validation and `mmext predict` alike: the {low} and {high} percentiles of {of} such {part}, '
        f'{pixels}. Images of 8 bits are never scaled.'
    )


def _depth_lines(images: Sequence[_Image], deep: Sequence[_Image], pairs: Sequence[tuple]) -> list[str]:
    values = _range(pairs[0]) if len(pairs) == 1 else _ranges(pairs)
    lines = [f'  {len(deep)} of {len(images)} images have more than 8 bits: grey values {values} become 0 to 255.']
    if len(deep) < len(images):
        lines.append(
            f'  The other {len(images) - len(deep)} have 8 bits and stay as they are: are both equally bright? Look at '
            'them: mmext check --show'
        )
    return lines


def _range(pair: tuple) -> str:
    return f'{pair[0]} to {pair[1]}'


def _ranges(pairs: Sequence[tuple]) -> str:
    return ', '.join(f'{colour} {_range(pair)}' for colour, pair in zip(('red', 'green', 'blue'), pairs, strict=True))


def _number(value: float) -> int | float:
    return int(value) if value == int(value) else float(f'{value:.6g}')


def _bounded(part: Part, side: int) -> bool:
    """Whether all images can be read by windows, the large ones without the rest of them being decoded."""
    for image in part.coco.images:
        path, large = part.folder / image['file_name'], max(image['width'], image['height']) > side
        if not is_tiff(path):
            if large:
                return False
            continue
        try:
            opened = open_windows(path)
            alpha_of(path, opened)
        except InputError:
            return False
        if large and not opened.bounded:
            return False
    return True


def _about_crops(crops: CropPlan, tiled: bool) -> str:
    size = 'the resolution of the file' if crops.scale == 1 else f'{crops.scale} of the resolution of the file'
    validation = 'Validation sees tiles of up to that size, in files of their own, and AP is one over tiles. '
    return (
        f'{crops.reason} So training sees crops of {crops.side}x{crops.side} px that hold an object, at {size}, '
        f'{crops.times} an image and epoch. {validation if tiled else ""}`mmext predict --tile {crops.side}` predicts at '
        'the same resolution.'
    )
