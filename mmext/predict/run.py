"""``mmext predict``: images in, files out. What is done is kept, image by image, so that a start goes on where one ended.

No torch until the images are found.
"""

import json
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmext.analysis.predictions import file_hash
from mmext.atomic_file import write_atomically
from mmext.data.formats.content import image_size
from mmext.data.large_image import LargeImage
from mmext.errors import InputError, did_you_mean
from mmext.predict import export, lab_report
from mmext.predict.image_files import ImageFile, find_images
from mmext.predict.instances import Instances
from mmext.predict.measure import columns, parse_pixel_size, summary, summary_columns, table
from mmext.predict.records import (
    check_names,
    keep_settings,
    read_record,
    record_path,
    stamp_of,
    text_hash,
    to_record,
    write_joined,
)
from mmext.predict.tiles import tile_grid

AUTO = 'auto'
# one file an image, in a folder of this name with these suffixes
FOLDERS = {'npz': ('npz', '.npz'), 'label-map': ('label_maps', '.png'), 'overlay': ('overlays', '.png')}
# one file of all images
JOINED = {'coco-results': ('coco_results.json',), 'coco': ('annotations.json',), 'csv': ('instances.csv', 'summary.csv')}
FORMATS = ('csv', 'overlay', 'coco', 'coco-results', 'npz', 'label-map')
# px, of an overlay's longer side: larger pictures are made smaller
_LONGEST = 4096
# an image that is so many times as long as the training's crops is asked about
_MANY_CROPS = 2

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Settings:
    """What a person asks for; what the predictions depend on comes first, see :class:`mmext.predict.predictor.Predictor`.

    ``score_thr``: a number, or ``auto``, the operating points kept with the run. ``tile``: side of the tiles of large images
    in pixels, None: images as they are. ``formats``: of ``FORMATS``. ``truth``: an annotation file of these images.
    """

    config: str
    checkpoint: Path
    score_thr: float | str = 0.5
    mask_thr: float | None = None
    max_per_img: int | None = None
    classes: tuple[str, ...] | None = None
    cfg_options: tuple[str, ...] = ()
    batch_size: int = 1
    device: str | None = None
    precision: str | None = None
    tile: int | None = None
    overlap: float = 0.2
    formats: tuple[str, ...] = ('csv', 'overlay')
    pixel_size: str | None = None
    truth: Path | None = None
    force: bool = False


@dataclass
class Outcome:
    """``failed``: images that could not be used, with the reason; ``files`` written of all images; ``lines`` to show;
    ``crashes``: the traceback of each failure that is a fault of ours and not of an image."""

    failed: list[tuple[ImageFile, str]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    crashes: list[str] = field(default_factory=list)

    def fail(self, image: ImageFile, failure: 'Failure') -> None:
        """Note an image that could not be used."""
        self.failed.append((image, failure.reason))
        if failure.crash:
            self.crashes.append(failure.crash)


class Failure(NamedTuple):
    """Why something could not be done; ``crash``: the traceback, where that is a fault of ours."""

    reason: str
    crash: str | None = None


class _Result(NamedTuple):
    """Of an image: ``instances``, or the ``failure`` in their place; ``kept``: they are from its record; ``stamp``: which
    state of the file they are of, see :func:`mmext.predict.records.stamp_of`."""

    image: ImageFile
    instances: Instances | None
    failure: Failure | None
    kept: bool
    stamp: tuple[int, int] | None


def predict(
    arguments: Sequence[str | Path],
    out: Path,
    settings: Settings,
    say: Callable[[str], None],
    remark: Callable[[str], None],
    progress: Progress | None = None,
) -> Outcome:
    """Predict images and write what is asked for into a folder.

    Args:
        arguments: files, folders, patterns.
        out: the folder.
        settings: all else.
        say: takes a line for each image, when it is done.
        remark: takes a line about the start, such as which thresholds are used.
        progress: takes (what, done, all).

    Raises:
        InputError: no image, or settings that cannot be; those of an earlier start in ``out`` were other ones, or its images
            others of the same name. What is wrong with one image is in the outcome.
    """
    formats = check_formats(settings.formats)
    if settings.tile:
        tile_grid((1, 1), settings.tile, settings.overlap)
    images = find_images(arguments, out)
    if not settings.force:
        check_names(out, images)
    joined = _Joined(out, formats, settings, images)
    predictor = _predictor(settings, remark)
    if settings.tile:
        from mmext.predict.model_config import check_loader

        check_loader(predictor.loader)
    elif line := _about_crops(predictor.cfg, images):
        remark(line)
    joined.check_classes(predictor.class_names)
    keep_settings(out, _fingerprint(predictor, settings), settings.force, tuple(folder for folder, _ in FOLDERS.values()))
    outcome, known = Outcome(), 0
    for done, result in enumerate(_found(predictor, images, out, settings, progress), 1):
        failure = result.failure or _written(predictor, result, out, formats, settings)
        if failure is None:
            say(line_of(result.image, result.instances))
        else:
            outcome.fail(result.image, failure)
        known += result.kept
        if progress:
            progress('images', done, len(images))
    if known:
        outcome.lines.append(f'{known} of {len(images)} images were done already.')
    if predictor.full:
        outcome.lines.append(
            f'{predictor.full} {"tiles" if settings.tile else "images"} have {predictor.max_per_img} instances, all that '
            'max_per_img keeps: more may be there. --max-per-img N keeps more.'
        )
    joined.write(images, outcome, progress)
    return outcome


def check_formats(formats: Sequence[str]) -> tuple[str, ...]:
    """The formats, each once.

    Raises:
        InputError: one that is none of ``FORMATS``.
    """
    for name in formats:
        if name not in FORMATS:
            raise InputError(
                f'--format: {name!r} is no format. {did_you_mean(name, FORMATS)}There are: {", ".join(FORMATS)}.'
            )
    return tuple(dict.fromkeys(formats))


def line_of(image: ImageFile, instances: Instances) -> str:
    """An image in one line: file, number of instances, number of each class, with tabs between them."""
    counts = Counter(instances.labels.tolist())
    classes = ', '.join(f'{instances.class_names[label]} {count}' for label, count in sorted(counts.items()))
    return f'{image.path}\t{len(instances)}\t{classes}'


# ---- the model, and what predictions depend on


def _predictor(settings: Settings, remark: Callable[[str], None]):
    from mmext.predict.predictor import Predictor

    found = Predictor(
        settings.config,
        settings.checkpoint,
        settings.device,
        settings.batch_size,
        mask_thr=settings.mask_thr,
        max_per_img=settings.max_per_img,
        classes=settings.classes,
        cfg_options=settings.cfg_options,
        precision=settings.precision,
    )
    for line in found.remarks:
        remark(line)
    if settings.score_thr == AUTO:
        from mmext.analysis.operating_point import thresholds_for

        thresholds, lines = thresholds_for(Path(settings.checkpoint), found.class_names)
        for line in lines:
            remark(line)
        found.set_score_thr(thresholds)
    else:
        found.set_score_thr(settings.score_thr)
    return found


def _about_crops(cfg, images: Sequence[ImageFile]) -> str | None:
    """A line when a model that has seen crops alone is to take whole images of several times their size."""
    from mmext.predict.model_config import crop_side

    side = crop_side(cfg)
    if side is None:
        return None
    large = [image for image in images if max(_size_of(image)) > _MANY_CROPS * side]
    if not large:
        return None
    return (
        f'{len(large)} of {len(images)} images are more than {_MANY_CROPS} times as long as the crops of {side} px that the '
        f'model was trained on, such as {large[0].path}. They are predicted whole, which takes memory and may miss objects: '
        f'--tile {side} cuts them into tiles and joins what is found.'
    )


def _size_of(image: ImageFile) -> tuple[int, int]:
    """Width and height, px; zeros of what is no image, which is told when it is read."""
    try:
        return image_size(image.path)
    except ValueError:
        return 0, 0


def _fingerprint(predictor, settings: Settings) -> dict:
    """What the predictions depend on: JSON."""
    shown = {'model': predictor.cfg.model, 'pipeline': predictor.pipeline_cfg}
    return {
        'config': str(settings.config),
        'config_sha256': text_hash(json.dumps(shown, default=str, sort_keys=True)),
        'checkpoint': str(settings.checkpoint),
        'checkpoint_sha256': file_hash(settings.checkpoint),
        'thresholds': predictor.thresholds,
        'mask_thr': settings.mask_thr,
        'max_per_img': settings.max_per_img,
        'classes': sorted(set(settings.classes)) if settings.classes is not None else None,
        # on another kind of device, or in other batches, the last digits of scores differ
        'batch_size': settings.batch_size,
        'device': predictor.device.partition(':')[0],
        'precision': settings.precision,
        'tile': settings.tile,
        'overlap': settings.overlap if settings.tile else None,
    }


# ---- predictions, image by image


def _found(
    predictor, images: Sequence[ImageFile], out: Path, settings: Settings, progress: Progress | None
) -> Iterator[_Result]:
    """Each image with its instances, from its record or predicted now, or else with the reason why there are none.

    Batches are the same in each start: of one that was broken off, all images are predicted again, since the last digits of
    a score depend on the batch. While a batch is predicted the next one is read.
    """
    size = 1 if settings.tile else settings.batch_size
    batches = [images[i : i + size] for i in range(0, len(images), size)]
    with ThreadPoolExecutor(1) as reader:
        coming = None
        for number, batch in enumerate(batches):
            results = [_kept(out, image) for image in batch]
            if all(one is not None for one in results):
                yield from results
                coming = None
                continue
            if settings.tile:
                answers = [_tiled(predictor, batch[0], settings, progress)]
            else:
                loaded = coming.result() if coming else _load(predictor, batch)
                following = batches[number + 1] if number + 1 < len(batches) else None
                coming = reader.submit(_load, predictor, following) if following and not _all_done(out, following) else None
                answers = _answers(predictor, loaded)
            yield from (kept or answer for kept, answer in zip(results, answers, strict=True))


def _kept(out: Path, image: ImageFile) -> _Result | None:
    """What the record of an image says."""
    stamp, _ = _try(lambda: stamp_of(image))
    instances = read_record(out, image)
    return None if instances is None or stamp is None else _Result(image, instances, None, True, stamp)


def _all_done(out: Path, images: Sequence[ImageFile]) -> bool:
    return all(record_path(out, image).exists() for image in images)


class _Loaded(NamedTuple):
    """An image that was read, or the ``failure`` to, and which state of the file it is."""

    image: ImageFile
    content: dict | None
    failure: Failure | None
    stamp: tuple[int, int] | None


def _load(predictor, images: Sequence[ImageFile]) -> list[_Loaded]:
    return [_load_one(predictor, image) for image in images]


def _load_one(predictor, image: ImageFile) -> _Loaded:
    # before it is read: an image that is replaced meanwhile is then seen as changed
    stamp, failure = _try(lambda: stamp_of(image))
    content = None
    if failure is None:
        content, failure = _try(lambda: _reading(lambda: predictor.load(image.path)))
    return _Loaded(image, content, failure, stamp)


def _answers(predictor, loaded: Sequence[_Loaded]) -> list[_Result]:
    """Instances of those that could be loaded; if a batch fails, each image by itself, so that one spoils no other."""
    good = [one for one in loaded if one.failure is None]
    together, failure = _try(lambda: predictor.find([one.content for one in good]))
    if failure is None:
        each = [(instances, None) for instances in together]
    elif len(good) == 1:
        each = [(None, failure)]
    else:
        each = [_try(lambda one=one: predictor.find([one.content])[0]) for one in good]
    coming = iter(each)
    return [
        _Result(one.image, *(next(coming) if one.failure is None else (None, one.failure)), False, one.stamp)
        for one in loaded
    ]


def _try(function: Callable[[], object]) -> tuple[object, Failure | None]:
    """What a function gives, or None and why it fails: one bad image never stops the rest.

    Raises:
        NoMasksError: the model is no good for any image.
    """
    from mmext.predict.predictor import NoMasksError

    try:
        return function(), None
    except NoMasksError:
        raise
    except InputError as error:
        return None, Failure(str(error))
    except (OSError, MemoryError, RuntimeError) as error:  # torch's lack of memory is a RuntimeError
        return None, Failure(f'{type(error).__name__}: {error}')
    except Exception as error:  # nothing of an image makes our own code raise these
        return None, Failure(f'{type(error).__name__}: {error}', traceback.format_exc())


def _reading(function: Callable[[], object]) -> object:
    """What a function reads of an image. Decoders and transforms raise anything: a fault of the image or of the config."""
    try:
        return function()
    except (InputError, OSError, MemoryError, RuntimeError):
        raise
    except Exception as error:
        raise InputError(f'{type(error).__name__}: {error}') from error


def _tiled(predictor, image: ImageFile, settings: Settings, progress: Progress | None) -> _Result:
    from mmext.predict.tiles import predict_tiled

    def found() -> Instances:
        large = _reading(lambda: LargeImage(image.path, predictor.loader))
        return predict_tiled(
            lambda tile: predictor.instances([tile])[0],
            lambda window: _reading(lambda: large.read(window)),
            large.size,
            settings.tile,
            settings.overlap,
            progress,
        )

    stamp, failure = _try(lambda: stamp_of(image))
    instances, failure = (None, failure) if failure else _try(found)
    return _Result(image, instances, failure, False, stamp)


# ---- files of one image


def _written(predictor, result: _Result, out: Path, formats: Sequence[str], settings: Settings) -> Failure | None:
    """Write the files of one image that are not there, its record last; or say why that cannot be."""
    if not result.kept:  # those of formats that are not asked for now would be of an older picture
        for path in _files_of(out, result.image):
            path.unlink(missing_ok=True)
    failure = _write_files(predictor, result, out, formats, settings)
    stamp, lost = _try(lambda: stamp_of(result.image))
    if stamp != result.stamp:  # whatever failed, failed for this
        return lost or Failure(f'{result.image.path}: it was changed while it was predicted. Start again.')
    if failure is None and not result.kept:
        write_atomically(to_record(result.image, result.instances, result.stamp), record_path(out, result.image))
    return failure


def _files_of(out: Path, image: ImageFile) -> list[Path]:
    """All files that an image may have, besides its record."""
    files = [out / folder / f'{image.name}{suffix}' for folder, suffix in FOLDERS.values()]
    return [*files, out / FOLDERS['label-map'][0] / f'{image.name}.csv']


def _write_files(predictor, result: _Result, out: Path, formats: Sequence[str], settings: Settings) -> Failure | None:
    for name in (name for name in formats if name in FOLDERS):
        folder, suffix = FOLDERS[name]
        path = out / folder / f'{result.image.name}{suffix}'
        if not path.exists():
            # a disk that is full is no fault of the image
            data, failure = _try(lambda name=name: _bytes_of(name, predictor, result.image, result.instances, settings))
            if failure is not None:
                return failure
            for ending, content in data.items():
                write_atomically(content, path.with_name(path.name.removesuffix(suffix) + ending))
    return None


def _bytes_of(name: str, predictor, image: ImageFile, instances: Instances, settings: Settings) -> dict[str, bytes]:
    """Suffix to content of the files of one format, that by which one sees that all are there last."""
    if name == 'npz':
        return {'.npz': export.npz_bytes(instances)}
    if name == 'label-map':
        numbers = export.instance_map(instances)
        return {'.csv': export.label_table(instances, numbers).encode(), '.png': export.png_bytes(numbers)}
    picture, scale = _reading(lambda: _picture(predictor, image, bool(settings.tile)))
    return {'.png': export.png_bytes(export.overlay(picture, instances, scale))}


def _picture(predictor, image: ImageFile, large: bool) -> tuple[np.ndarray, float]:
    """An image to draw on, not larger than a picture may be, and its scale."""
    import cv2

    if large:
        return LargeImage(image.path, predictor.loader).overview(_LONGEST)
    picture = predictor.read(image.path)
    scale = min(1.0, _LONGEST / max(picture.shape[:2]))
    if scale < 1:
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return picture, scale


# ---- files of all images


class _Joined:
    """The files that hold all images. What is wrong with their settings shows before the first image is predicted."""

    def __init__(self, out: Path, formats: Sequence[str], settings: Settings, images: Sequence[ImageFile]):
        self.out, self.formats, self.wanted = out, formats, settings.classes
        self.pixel_size = parse_pixel_size(settings.pixel_size) if settings.pixel_size is not None else None
        names = [image.file_name for image in images]
        self.truth = lab_report.read_truth(settings.truth, names) if settings.truth is not None else None
        # the annotation file's, so that COCO's own tools can compare
        self.ids = self.truth.image_ids(names) if self.truth else {name: i for i, name in enumerate(names, 1)}

    def check_classes(self, class_names: Sequence[str]) -> None:
        """Which classes the files have; some of those of an annotation file must be the model's."""
        self.class_names = tuple(class_names)
        self.category_ids = self.truth.category_ids(class_names) if self.truth else list(range(1, len(class_names) + 1))
        self.kept = tuple(name for name in class_names if self.wanted is None or name in self.wanted)
        if self.truth:
            lab_report.check_truth(self.truth, self.kept)

    def write(self, images: Sequence[ImageFile], outcome: Outcome, progress: Progress | None) -> None:
        """Write them from the records of the images that have not failed; those that do now, and what is to be told, go to
        the outcome.

        Raises:
            InputError: the annotation file has other sizes for all images. All else is written.
        """
        lost = {image for image, _ in outcome.failed}
        found, rows = self._collect([image for image in images if image not in lost], outcome, progress)
        self._write(lambda: self._contents(found, rows), outcome)
        if self.truth and any(name in self.truth.of_file for name in found):
            self._write(lambda: self._compared(found, rows, outcome), outcome)

    def _write(self, make: Callable[[], dict[str, str]], outcome: Outcome) -> None:
        try:
            contents = make()
        except (InputError, OSError):
            raise
        except Exception:  # shown at the end, below the images that failed
            outcome.crashes.append(traceback.format_exc())
            return
        files, lines = write_joined(self.out, contents)
        outcome.files += files
        outcome.lines += lines

    def _collect(
        self, images: Sequence[ImageFile], outcome: Outcome, progress: Progress | None
    ) -> tuple[dict[str, Instances], dict[str, list[dict]]]:
        """File name to instances, and to the rows of its table where one is written."""
        found: dict[str, Instances] = {}
        rows: dict[str, list[dict]] = {}
        for number, image in enumerate(images, 1):
            instances, failure = _try(lambda image=image: self._of(image))
            if failure is None and ('csv' in self.formats or self.truth):
                measured, failure = _try(
                    lambda image=image, instances=instances: table(instances, image.file_name, self.pixel_size)
                )
                rows |= {} if failure else {image.file_name: measured}
                if progress:
                    progress('measured', number, len(images))
            if failure is None:
                found[image.file_name] = instances
            else:
                outcome.fail(image, failure)
        return found, rows

    def _of(self, image: ImageFile) -> Instances:
        stamp_of(image)  # says that it is gone
        found = read_record(self.out, image)
        if found is None:
            raise InputError(f'{image.path}: it was changed while it was predicted. Start again.')
        return found

    def _contents(self, found: Mapping[str, Instances], rows: Mapping[str, list[dict]]) -> dict[str, str]:
        contents: dict[str, str] = {}
        if 'coco' in self.formats:
            entries = [(self.ids[name], name, instances) for name, instances in found.items()]
            contents['annotations.json'] = json.dumps(export.coco_annotations(entries, self.class_names, self.category_ids))
        if 'coco-results' in self.formats:
            results = [
                entry
                for name, instances in found.items()
                for entry in export.coco_results(instances, self.ids[name], name, self.category_ids)
            ]
            contents['coco_results.json'] = json.dumps(results)
        return contents | (self._tables(rows) if 'csv' in self.formats else {})

    def _compared(self, found: Mapping[str, Instances], rows: Mapping[str, list[dict]], outcome: Outcome) -> dict[str, str]:
        report, remarks = lab_report.compare_with_truth(self.truth, found, rows, self.kept, self.pixel_size)
        outcome.lines += [*lab_report.lines_of(report), *remarks]
        return lab_report.tables(report, self.pixel_size)

    def _tables(self, rows: Mapping[str, list[dict]]) -> dict[str, str]:
        flat = [row for of_image in rows.values() for row in of_image]
        return {
            'instances.csv': export.csv_text(columns(self.pixel_size), flat),
            'summary.csv': export.csv_text(summary_columns(self.pixel_size), summary(flat, rows, self.kept)),
        }
