"""``mmext predict``: images in, files out. What is done is kept, image by image, so that a start goes on where one ended.

No torch until the images are found.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmext.atomic_file import write_atomically
from mmext.errors import InputError, did_you_mean
from mmext.predict import export, lab_report
from mmext.predict.image_files import ImageFile, find_images
from mmext.predict.instances import Instances
from mmext.predict.measure import columns, parse_pixel_size, summary, summary_columns, table
from mmext.predict.records import keep_settings, read_record, record_path, text_hash, to_record

AUTO = 'auto'
# one file an image, in a folder of this name with these suffixes
FOLDERS = {'npz': ('npz', '.npz'), 'label-map': ('label_maps', '.png'), 'overlay': ('overlays', '.png')}
# one file of all images
JOINED = {'coco-results': ('coco_results.json',), 'coco': ('annotations.json',), 'csv': ('instances.csv', 'summary.csv')}
FORMATS = ('csv', 'overlay', 'coco', 'coco-results', 'npz', 'label-map')
# px, of an overlay's longer side: larger pictures are made smaller
_LONGEST = 4096

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
    tile: int | None = None
    overlap: float = 0.2
    formats: tuple[str, ...] = ('csv', 'overlay')
    pixel_size: str | None = None
    truth: Path | None = None
    force: bool = False


@dataclass
class Outcome:
    """``failed``: images that could not be used, with the reason; ``files`` written of all images; ``lines`` to show."""

    failed: list[tuple[ImageFile, str]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


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
        InputError: no image, or settings that cannot be; those of an earlier start in ``out`` were other ones. What is wrong
            with one image is in the outcome.
    """
    formats = check_formats(settings.formats)
    images = find_images(arguments, out)
    joined = _Joined(out, formats, settings, images)
    predictor = _predictor(settings, remark)
    joined.check_classes(predictor.class_names)
    keep_settings(out, _fingerprint(predictor, settings), settings.force, tuple(folder for folder, _ in FOLDERS.values()))
    outcome = Outcome()
    for done, (image, instances, reason) in enumerate(_found(predictor, images, out, settings, progress), 1):
        if instances is not None:
            reason = _written(predictor, image, instances, out, formats, settings)
        if reason is None:
            say(line_of(image, instances))
        else:
            outcome.failed.append((image, reason))
        if progress:
            progress('images', done, len(images))
    lost = {image for image, _ in outcome.failed}
    outcome.files, outcome.lines = joined.write([image for image in images if image not in lost], progress)
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
    )
    if settings.score_thr == AUTO:
        from mmext.analysis.operating_point import thresholds_for

        thresholds, lines = thresholds_for(Path(settings.checkpoint), found.class_names)
        for line in lines:
            remark(line)
        found.set_score_thr(thresholds)
    else:
        found.set_score_thr(settings.score_thr)
    return found


def _fingerprint(predictor, settings: Settings) -> dict:
    """What the predictions depend on: JSON."""
    shown = {'model': predictor.cfg.model, 'pipeline': predictor.pipeline_cfg}
    return {
        'config': str(settings.config),
        'config_sha256': text_hash(json.dumps(shown, default=str, sort_keys=True)),
        'checkpoint': str(settings.checkpoint),
        'checkpoint_sha256': text_hash(Path(settings.checkpoint).read_bytes()),
        'thresholds': predictor.thresholds,
        'mask_thr': settings.mask_thr,
        'max_per_img': settings.max_per_img,
        'classes': sorted(set(settings.classes)) if settings.classes is not None else None,
        # on another kind of device, or in other batches, the last digits of scores differ
        'batch_size': settings.batch_size,
        'device': predictor.device.partition(':')[0],
        'tile': settings.tile,
        'overlap': settings.overlap if settings.tile else None,
    }


# ---- predictions, image by image


def _found(
    predictor, images: Sequence[ImageFile], out: Path, settings: Settings, progress: Progress | None
) -> Iterator[tuple[ImageFile, Instances | None, str | None]]:
    """Each image with its instances, from its record or predicted now, or else with the reason why there are none.

    Batches are the same in each start: of one that was broken off, all images are predicted again, since the last digits of
    a score depend on the batch. While a batch is predicted the next one is read.
    """
    size = 1 if settings.tile else settings.batch_size
    batches = [images[i : i + size] for i in range(0, len(images), size)]
    with ThreadPoolExecutor(1) as reader:
        coming = None
        for number, batch in enumerate(batches):
            kept = [read_record(out, image) for image in batch]
            if all(one is not None for one in kept):
                yield from ((image, one, None) for image, one in zip(batch, kept, strict=True))
                coming = None
                continue
            if settings.tile:
                answers = [_try(lambda image=batch[0]: _tiled(predictor, image, settings, progress))]
            else:
                loaded = coming.result() if coming else _load(predictor, batch)
                following = batches[number + 1] if number + 1 < len(batches) else None
                coming = reader.submit(_load, predictor, following) if following and not _all_done(out, following) else None
                answers = _answers(predictor, loaded)
            for image, one, (instances, reason) in zip(batch, kept, answers, strict=True):
                yield image, one if one is not None else instances, reason


def _all_done(out: Path, images: Sequence[ImageFile]) -> bool:
    return all(record_path(out, image).exists() for image in images)


def _load(predictor, images: Sequence[ImageFile]) -> list[tuple[object, str | None]]:
    return [_try(lambda image=image: predictor.load(image.path)) for image in images]


def _answers(predictor, loaded: Sequence[tuple[object, str | None]]) -> list[tuple[Instances | None, str | None]]:
    """Instances of those that could be loaded; if a batch fails, each image by itself, so that one spoils no other."""
    good = [place for place, (_, reason) in enumerate(loaded) if reason is None]
    together, reason = _try(lambda: predictor.find([loaded[place][0] for place in good]))
    if reason is None:
        each = [(one, None) for one in together]
    elif len(good) == 1:
        each = [(None, reason)]
    else:
        single = [_try(lambda place=place: predictor.find([loaded[place][0]])) for place in good]
        each = [(found and found[0], why) for found, why in single]
    answers = [(None, why) for _, why in loaded]
    for place, answer in zip(good, each, strict=True):
        answers[place] = answer
    return answers


def _try(function: Callable[[], object]) -> tuple[object, str | None]:
    """What a function gives, or None and why it fails: one bad image never stops the rest."""
    try:
        return function(), None
    except InputError as error:
        return None, str(error)
    except Exception as error:  # MMDetection, OpenCV, a lack of memory: of whichever kind
        return None, f'{type(error).__name__}: {error}'


def _tiled(predictor, image: ImageFile, settings: Settings, progress: Progress | None) -> Instances:
    from mmext.predict.large_image import LargeImage
    from mmext.predict.tiles import predict_tiled

    large = LargeImage(image.path, predictor.loader)
    return predict_tiled(
        lambda tile: predictor.instances([tile])[0], large.read, large.size, settings.tile, settings.overlap, progress
    )


# ---- files of one image


def _written(
    predictor, image: ImageFile, instances: Instances, out: Path, formats: Sequence[str], settings: Settings
) -> str | None:
    """Write the files of one image that are not there, its record last; or say why that cannot be."""
    fresh = read_record(out, image) is None
    for name in (name for name in formats if name in FOLDERS):
        folder, suffix = FOLDERS[name]
        path = out / folder / f'{image.name}{suffix}'
        if fresh or not path.exists():
            # a disk that is full is no fault of the image
            data, reason = _try(lambda name=name: _bytes_of(name, predictor, image, instances, settings))
            if reason is not None:
                return reason
            for ending, content in data.items():
                write_atomically(content, path.with_name(path.name.removesuffix(suffix) + ending))
    if fresh:
        write_atomically(to_record(image, instances), record_path(out, image))
    return None


def _bytes_of(name: str, predictor, image: ImageFile, instances: Instances, settings: Settings) -> dict[str, bytes]:
    """Suffix to content of the files of one format, that by which one sees that all are there last."""
    if name == 'npz':
        return {'.npz': export.npz_bytes(instances)}
    if name == 'label-map':
        numbers = export.instance_map(instances)
        return {'.csv': export.label_table(instances, numbers).encode(), '.png': export.png_bytes(numbers)}
    picture, scale = _picture(predictor, image, bool(settings.tile))
    return {'.png': export.png_bytes(export.overlay(picture, instances, scale))}


def _picture(predictor, image: ImageFile, large: bool) -> tuple[np.ndarray, float]:
    """An image to draw on, not larger than a picture may be, and its scale."""
    import cv2

    if large:
        from mmext.predict.large_image import LargeImage

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

    def write(self, images: Sequence[ImageFile], progress: Progress | None) -> tuple[list[Path], list[str]]:
        """Write them from the records; returns the files, and lines to show."""
        found = {image.file_name: self._of(image) for image in images}
        contents: dict[str, str] = {}
        lines: list[str] = []
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
        if 'csv' in self.formats or self.truth:
            rows = self._rows(found, progress)
            if 'csv' in self.formats:
                contents |= self._tables(rows)
            if self.truth and any(name in self.truth.of_file for name in found):
                report, remarks = lab_report.compare_with_truth(self.truth, found, rows, self.kept, self.pixel_size)
                contents |= lab_report.tables(report, self.pixel_size)
                compared = sum(name in self.truth.of_file for name in found)
                lines = [*lab_report.lines_of(report, compared), *remarks]
        for name, content in contents.items():
            write_atomically(content.encode(), self.out / name)
        return [self.out / name for name in contents], lines

    def _of(self, image: ImageFile) -> Instances:
        found = read_record(self.out, image)
        if found is None:
            raise InputError(f'{image.path}: it was changed while it was predicted. Start again.')
        return found

    def _rows(self, found: Mapping[str, Instances], progress: Progress | None) -> dict[str, list[dict]]:
        rows = {}
        for number, (name, instances) in enumerate(found.items(), 1):
            rows[name] = table(instances, name, self.pixel_size)
            if progress:
                progress('measured', number, len(found))
        return rows

    def _tables(self, rows: Mapping[str, list[dict]]) -> dict[str, str]:
        flat = [row for of_image in rows.values() for row in of_image]
        return {
            'instances.csv': export.csv_text(columns(self.pixel_size), flat),
            'summary.csv': export.csv_text(summary_columns(self.pixel_size), summary(flat, rows, self.kept)),
        }
