"""The annotations of a data set as arrays, and what becomes of each on its way into the training loop."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import FilterAnnotations, LoadAnnotations
from mmengine.config import Config
from mmengine.registry import DATASETS, TRANSFORMS, init_default_scope

from mmext.analysis.input_size import input_size, not_understood
from mmext.check.parts import DataPart
from mmext.data.coco_file import has_outline
from mmext.datasets import CocoInstanceDataset
from mmext.errors import InputError
from mmext.transforms import LoadInstanceMasks

# What can become of an annotation; the first that holds counts. The names are those of the JSON answer.
REASONS = {
    'class-not-in-config': 'its category is not among the classes of the config',
    'marked-ignore': "marked 'ignore' in the file",
    'box-outside-image': 'the box is outside the image',
    'box-too-small': 'area 0, or a box under 1 px',
    'image-too-small': 'its image is smaller than filter_cfg.min_size',
    'not-in-indices': "its image is not among the data set's indices",
    'no-mask': 'no usable mask: the run stops at its image',
    'crowd': 'iscrowd=1: an ignore region, not an object',
    'rle-ignored': 'an RLE, which LoadAnnotations(poly2mask=False) turns into an ignore region',
    'outline-ignored': 'no polygon of three points, or a broken RLE: turned into an ignore region',
    'filtered': 'smaller than FilterAnnotations lets through',
}
_CODES = {name: code for code, name in enumerate(REASONS)}
REACHES = -1

# In the name of a transform that moves, cuts or mixes objects anew at each draw. A random resize is not among them: the
# largest scale counts.
_DRAWN = ('Crop', 'Affine', 'Shift', 'Mosaic', 'MixUp', 'CopyPaste', 'Expand', 'Albu', 'Rotate', 'Shear', 'Translate')
_DRAWN += ('Erasing', 'Augment', 'GeomTransform', 'RandomApply', 'RandomOrder', 'MultiBranch')


@dataclass(frozen=True)
class Instances:
    """N annotations of a part, in the order of its file.

    ``boxes`` (N, 4) x1 y1 x2 y2 and ``areas`` (N,) in pixels of the file; ``image_sizes`` (N, 2) width and height;
    ``image_places`` (N,) the image's place in the file; ``names`` (N,) the category of each; ``fates`` (N,) REACHES
    or the place in REASONS. ``images`` the places of the images that the data set keeps. ``transforms`` the pipeline, built.
    ``not_counted`` what the pipeline does that annotations alone cannot tell, in words.
    """

    boxes: np.ndarray
    areas: np.ndarray
    image_sizes: np.ndarray
    image_places: np.ndarray
    names: np.ndarray
    fates: np.ndarray
    images: tuple[int, ...]
    transforms: tuple
    not_counted: tuple[str, ...]

    @property
    def reaching(self) -> np.ndarray:
        """(N,) whether an annotation reaches the loop as an object."""
        return self.fates == REACHES

    def network_scale(self) -> np.ndarray:
        """(N, 2) factors across and down from the file's pixels to those of the network's input; the largest of a draw."""
        return scale_factors(self.transforms, self.image_sizes)

    def network_boxes(self) -> np.ndarray:
        """(N, 4) boxes x1 y1 x2 y2 at the network's input, cut at the image's border."""
        limits = np.tile(self.image_sizes, 2)
        return np.clip(self.boxes, 0, limits) * np.tile(self.network_scale(), 2)


def scale_factors(transforms: Sequence, image_sizes: np.ndarray) -> np.ndarray:
    """Factors across and down (N, 2) of the resizing transforms for images of sizes (N, 2), width and height."""
    if not len(image_sizes):
        return np.ones((0, 2))
    different, place = np.unique(image_sizes, axis=0, return_inverse=True)
    resized = np.array([input_size(transforms, *size) for size in different.tolist()])
    return (resized / different)[place.ravel()]


def class_names(part: DataPart) -> tuple[str, ...]:
    """Class names as the data set will have them: of the config, of a file that it names, or the data set's own.

    Raises:
        InputError: there is no such data set, or the names are one text.
    """
    # of the rest it would say "random is not a meta file" for every palette='random'
    given = {key: value for key, value in (part.dataset.get('metainfo') or {}).items() if key == 'classes'}
    metainfo = _data_set_class(part)._load_metainfo(given)
    classes = metainfo.get('classes') or ()
    if isinstance(classes, str):
        raise InputError(
            f'{part.key}.metainfo.classes is the text {classes!r}, not a list of names. Add a comma: classes=({classes!r},).'
        )
    return tuple(classes)


def _data_set_class(part: DataPart) -> type:
    kind = part.dataset.type
    with DATASETS.switch_scope_and_registry(None) as registry:  # as build does: a name without scope is MMDetection's
        found = registry.get(kind) if isinstance(kind, str) else kind
    if found is None:
        raise InputError(f'{part.key}.type: there is no data set {kind!r}.')
    return found


def built_pipeline(part: DataPart, cfg: Config) -> tuple:
    """The transforms of a part's pipeline.

    Raises:
        InputError: one that cannot be built.
    """
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    transforms = []
    for number, transform in enumerate(part.dataset.get('pipeline') or []):
        try:
            transforms.append(TRANSFORMS.build(transform))
        except Exception as error:  # whatever a setting of the person's config makes the transform's code raise
            raise InputError(
                f'{part.key}.pipeline.{number} ({transform.get("type")}) cannot be built: {type(error).__name__}: {error}'
            ) from error
    return tuple(transforms)


def read_instances(part: DataPart, cfg: Config) -> Instances:
    """What becomes of each annotation, by the rules of MMDetection's CocoDataset and of the pipeline's transforms.

    The rules are applied to the file at once; building the data set would take ten times as long.

    Args:
        part: with its ``coco``.
        cfg: the config that it comes from.

    Raises:
        InputError: a data set or a transform that cannot be built.
    """
    transforms = built_pipeline(part, cfg)
    annotations, images = part.coco.annotations, part.coco.images
    names = {category['id']: category['name'] for category in part.coco.categories}
    places = {image['id']: place for place, image in enumerate(images)}
    boxes = np.array([a['bbox'] for a in annotations], float).reshape(-1, 4)
    sides = boxes[:, 2:].copy()  # the file's own numbers: x + w - x is not always w
    boxes[:, 2:] += boxes[:, :2]
    sizes = np.array([(image['width'], image['height']) for image in images], float).reshape(-1, 2)
    image_places = np.array([places[a['image_id']] for a in annotations], int)
    found = Instances(
        boxes,
        np.array([a['area'] for a in annotations], float),
        sizes[image_places],
        image_places,
        np.array([names.get(a['category_id'], '') for a in annotations], object),
        np.full(len(annotations), REACHES),
        _kept_images(part, places, class_names(part), names),
        transforms,
        _not_counted(part, cfg, transforms),
    )
    # from the last rule to the first, so that the first one has its way
    for reason, holds in reversed([*_data_set_rules(found, part, sides), *_pipeline_rules(found, annotations)]):
        found.fates[holds] = _CODES[reason]
    return found


def _kept_images(part: DataPart, places: dict, classes: tuple, names: dict) -> tuple[int, ...]:
    """Places of the images after the data set's ``filter_cfg`` and ``indices``, as CocoDataset.filter_data has it."""
    settings, images = part.dataset.get('filter_cfg'), part.coco.images
    kept = list(range(len(images)))
    if settings is not None and not part.dataset.get('test_mode', False):
        if settings.get('filter_empty_gt', False):  # any annotation of a class counts, one that is dropped as well
            filled = {places[a['image_id']] for a in part.coco.annotations if names.get(a['category_id']) in classes}
            kept = [place for place in kept if place in filled]
        least = settings.get('min_size', 0)
        kept = [place for place in kept if min(images[place]['width'], images[place]['height']) >= least]
    indices = part.dataset.get('indices')
    if isinstance(indices, int):
        return tuple(kept[:indices] if indices >= 0 else kept[indices:])
    return tuple(kept) if indices is None else tuple(kept[i] for i in indices if -len(kept) <= i < len(kept))


def _data_set_rules(found: Instances, part: DataPart, sides: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """What CocoDataset.parse_data_info and filter_data drop, in order: reason and (N,) bool."""
    annotations, classes = part.coco.annotations, set(class_names(part))
    (x1, y1, x2, y2), (width, height) = found.boxes.T, found.image_sizes.T
    across = np.maximum(0, np.minimum(x2, width) - np.maximum(x1, 0))
    down = np.maximum(0, np.minimum(y2, height) - np.maximum(y1, 0))
    known = np.array([name in classes for name in found.names], bool)
    settings = part.dataset.get('filter_cfg')
    least = 0 if settings is None or part.dataset.get('test_mode', False) else settings.get('min_size', 0)
    kept = np.isin(found.image_places, np.array(found.images, int))
    return [
        ('class-not-in-config', ~known),
        ('marked-ignore', np.array([bool(a.get('ignore', False)) for a in annotations], bool)),
        ('box-outside-image', across * down == 0),
        ('box-too-small', (found.areas <= 0) | (sides < 1).any(1)),
        ('image-too-small', found.image_sizes.min(1) < least),
        ('not-in-indices', ~kept),
    ]


def _pipeline_rules(found: Instances, annotations: Sequence[dict]) -> list[tuple[str, np.ndarray]]:
    """What the pipeline drops for certain, in order: reason and (N,) bool."""
    place, loader = next(
        ((i, one) for i, one in enumerate(found.transforms) if isinstance(one, LoadAnnotations)), (-1, None)
    )
    states = np.array([_state(a, size, loader) for a, size in zip(annotations, found.image_sizes, strict=True)], object)
    rules = [(reason, states == reason) for reason in ('no-mask', 'crowd', 'rle-ignored', 'outline-ignored')]
    filtered = np.zeros(len(annotations), bool)
    for at, transform in enumerate(found.transforms):
        if isinstance(transform, FilterAnnotations) and transform.by_box and at > place >= 0:
            filtered |= _filtered(found, transform, found.transforms[place + 1 : at])
    return [*rules, ('filtered', filtered)]


def _state(annotation: dict, image_size: np.ndarray, loader: LoadAnnotations | None) -> str | None:
    """What LoadAnnotations._process_masks, or ours, makes of a mask; None when it is an object's."""
    crowd = annotation.get('iscrowd', False)
    fine = 'crowd' if crowd else None
    if loader is None or not loader.with_mask:
        return fine
    mask = annotation.get('segmentation') or None
    if not _is_readable(mask, loader):
        return 'no-mask'
    if isinstance(loader, LoadInstanceMasks):
        other_size = isinstance(mask, dict) and mask.get('size', image_size[::-1].tolist()) != image_size[::-1].tolist()
        if other_size or not (crowd or has_outline(mask)):
            return 'no-mask'
    elif mask is None:
        return 'no-mask'  # a KeyError, for a crowd too
    if crowd:
        return 'crowd'
    if isinstance(mask, dict):
        if not loader.poly2mask:
            return 'rle-ignored'
        whole = isinstance(mask.get('counts'), (list, str)) and mask.get('size') is not None
        return fine if whole else 'outline-ignored'
    return fine if has_outline(mask) else 'outline-ignored'


def _is_readable(mask: object, loader: LoadAnnotations) -> bool:
    """Whether LoadAnnotations reads a segmentation without a TypeError: not a number, nor a list of numbers."""
    if isinstance(mask, list):
        return all(isinstance(polygon, list) for polygon in mask)
    return mask is None or isinstance(mask, dict) or not loader.poly2mask


def _filtered(found: Instances, transform: FilterAnnotations, before: Sequence) -> np.ndarray:
    """(N,) boxes that FilterAnnotations drops, in single precision as it computes; of a random scale the largest."""
    factors = np.tile(scale_factors(before, found.image_sizes), 2).astype(np.float32)
    boxes = found.boxes.astype(np.float32) * factors
    resized = [one for one in before if 'Resize' in type(one).__name__]
    if any(getattr(getattr(one, 'resize', one), 'clip_object_border', True) for one in resized):
        boxes = np.clip(boxes, 0, np.tile(np.rint(found.image_sizes * factors[:, :2]), 2).astype(np.float32))
    sides = boxes[:, 2:] - boxes[:, :2]
    return ~(sides > np.array(transform.min_gt_bbox_wh, np.float32)).all(1)


def _not_counted(part: DataPart, cfg: Config, transforms: Sequence) -> tuple[str, ...]:
    """What the data set or its pipeline may drop and annotations alone cannot tell."""
    words = []
    kind = _data_set_class(part)
    if getattr(kind, 'parse_data_info', None) not in (CocoDataset.parse_data_info, CocoInstanceDataset.parse_data_info):
        words.append(f'{kind.__name__} reads annotations by rules of its own; those of CocoDataset were applied.')
    if not any(isinstance(one, LoadAnnotations) for one in transforms):
        words.append('The pipeline has no LoadAnnotations, so nothing is said about masks.')
    types = [*(type(one).__name__ for one in transforms), *_outer_pipeline(cfg, part.name)]
    drawn = dict.fromkeys(name for name in types if any(word in name for word in _DRAWN))
    if drawn:
        words.append(f'{", ".join(drawn)}: drawn anew each time an image is read; what it cuts off is not counted.')
    unknown = [name for name in not_understood(transforms) if name not in drawn]
    if unknown:
        words.append(f'{", ".join(unknown)}: how it changes the scale is not followed.')
    if any(isinstance(one, FilterAnnotations) and one.by_mask for one in transforms):
        words.append('FilterAnnotations(by_mask=True) goes by the mask after the resize; what it drops is not counted.')
    return tuple(words)


def _outer_pipeline(cfg: Config, name: str) -> list[str]:
    """Types of the transforms of wrappers around the data set (MultiImageMixDataset)."""
    dataset, types = cfg[f'{name}_dataloader'].dataset, []
    while 'dataset' in dataset:
        types += [str(one.get('type')) for one in dataset.get('pipeline') or []]
        dataset = dataset.dataset
    return types
