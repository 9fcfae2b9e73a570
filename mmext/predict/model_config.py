"""What a config and its checkpoint say of predicting: classes, pipeline, thresholds."""

import copy
from collections.abc import Mapping

from mmengine.config import Config
from mmengine.registry import DATASETS
from torch import nn

from mmext.data.caps import proposal_caps
from mmext.data.class_names import trained_classes
from mmext.data.config_data import dataset_of
from mmext.errors import InputError
from mmext.transforms.load_microscope_image import LoadMicroscopeImage

# transforms of MMDetection and of mmext that need an annotation, which an image to predict has not
_OF_ANNOTATIONS = (
    'LoadAnnotations',
    'LoadInstanceMasks',
    'LoadPanopticAnnotations',
    'LoadEmptyAnnotations',
    'LoadProposals',
    'LoadTrackAnnotations',
    'FilterAnnotations',
)
_LOADERS = ('LoadImageFromFile', 'LoadImageFromNDArray', 'LoadMicroscopeImage')


def class_names(cfg: Config, meta: Mapping, model: nn.Module, checkpoint: str) -> tuple[str, ...]:
    """Names of the classes in the order of the labels: the config's, which must be those of the checkpoint.

    Args:
        cfg: its data set for testing, or else for validation or training.
        meta: of the checkpoint; MMEngine writes ``dataset_meta`` into it.
        model: built; its heads have ``num_classes``.
        checkpoint: its name, for the words.

    Raises:
        InputError: the two differ; neither names classes; there are more or fewer than the model has.
    """
    dataset = next((found for part in ('test', 'val', 'train') if (found := dataset_of(cfg, part))), {})
    configured = tuple((dataset.get('metainfo') or {}).get('classes') or ())
    trained = trained_classes(meta)
    if configured and trained and configured != trained:
        raise InputError(
            f'The config and the checkpoint name other classes, so labels would get wrong names. Config: '
            f'{", ".join(configured)}. {checkpoint}: {", ".join(trained)}. Give the config that it was trained with, or set '
            "metainfo=dict(classes=(...,)) of the config's test_dataloader.dataset to its classes."
        )
    names = configured or trained
    if not names and dataset.get('type'):
        kind = DATASETS.get(dataset['type']) if isinstance(dataset['type'], str) else dataset['type']
        names = tuple((getattr(kind, 'METAINFO', None) or {}).get('classes') or ())
    heads = {
        name: int(part.num_classes)
        for name, part in model.named_modules()
        if name.rpartition('.')[2] in ('bbox_head', 'mask_head') and isinstance(getattr(part, 'num_classes', None), int)
    }
    if not names:
        raise InputError(
            f"Neither the config nor {checkpoint} names the classes. Set metainfo=dict(classes=(...,)) of the config's "
            'test_dataloader.dataset.'
        )
    wrong = next(((name, count) for name, count in heads.items() if count != len(names)), None)
    if wrong:
        raise InputError(
            f'{wrong[0]} has num_classes={wrong[1]}, and there are {len(names)} class names: {", ".join(names)}. Give a '
            'config in which both fit.'
        )
    return tuple(str(name) for name in names)


def test_pipeline(cfg: Config) -> list[dict]:
    """The pipeline for testing, without the transforms for annotations; the first loads the image.

    Raises:
        InputError: the config has no such pipeline.
    """
    found = [dataset_of(cfg, part).get('pipeline') for part in ('test', 'val')]
    pipeline = next((one for one in [*found, cfg.get('test_pipeline')] if one), None)
    if not pipeline:
        raise InputError(
            'The config has no pipeline for testing: test_dataloader.dataset.pipeline, or that of val_dataloader.'
        )
    steps = [step for step in copy.deepcopy(list(pipeline)) if _name(step) not in _OF_ANNOTATIONS]
    if not steps or 'Load' not in _name(steps[0]):
        first = _name(steps[0]) if steps else 'nothing'
        raise InputError(f'The pipeline for testing does not begin with a transform that loads an image, but with {first}.')
    return steps


def crop_side(cfg: Config) -> int | None:
    """Longer side of the crops that the model was trained on, px; None where it saw whole images."""
    steps = dataset_of(cfg, 'train').get('pipeline') or []
    return next((max(step['size']) for step in steps if _name(step) == 'CropAroundInstance'), None)


def microscope_loader(step: Mapping) -> LoadMicroscopeImage | None:
    """Ours in the place of stock loading in colour: it gives the same bytes of an 8-bit image; None for another loader."""
    if _name(step) not in _LOADERS or step.get('color_type', 'color') not in ('color', 'color_ignore_orientation'):
        return None
    return LoadMicroscopeImage(**{key: value for key, value in step.items() if key != 'type'})


def check_loader(loader: object) -> None:
    """Refuse a transform that no window of an image can be scaled with.

    Raises:
        InputError: it is not ours.
    """
    if not isinstance(loader, LoadMicroscopeImage):
        raise InputError(
            f'--tile: the config loads images with {type(loader).__name__}, which reads whole ones. Use LoadImageFromFile '
            'or mmext.LoadMicroscopeImage in its test pipeline.'
        )


def _name(step: Mapping | object) -> str:
    kind = step.get('type', '') if isinstance(step, Mapping) else type(step)
    return kind.rpartition('.')[2] if isinstance(kind, str) else getattr(kind, '__name__', '')


def with_thresholds(cfg: Config, mask_thr: float | None, max_per_img: int | None) -> Config:
    """A copy of a config with these settings where its family has them.

    An RPN gets the limits on proposals that a higher ``max_per_img`` needs.

    Raises:
        InputError: a value that cannot be; a family without such a setting.
    """
    cfg = copy.deepcopy(cfg)
    if 'model' not in cfg:
        raise InputError('The config has no model.')
    test_cfg = cfg.model.get('test_cfg') or {}
    place = test_cfg.get('rcnn') or test_cfg
    if mask_thr is not None:
        if not 0 < mask_thr < 1:
            raise InputError(f'mask_thr: {mask_thr} is not a probability between 0 and 1.')
        key = (
            'mask_thr_binary'
            if 'rcnn' in test_cfg
            else next((k for k in ('mask_thr_binary', 'mask_thr') if k in place), None)
        )
        if key is None:
            raise InputError(f'mask_thr: {cfg.model.type} has no threshold for its masks in test_cfg, so leave it out.')
        place[key] = float(mask_thr)
    if max_per_img is not None:
        if max_per_img < 1:
            raise InputError(f'max_per_img: {max_per_img} is not a whole number from 1.')
        if 'max_per_img' not in place:
            raise InputError(f'max_per_img: {cfg.model.type} has no such setting in test_cfg, so leave it out.')
        if max_per_img > place['max_per_img'] and 'rpn' in test_cfg:  # which would cut them off before
            needed = {cap.name: cap.needed for cap in proposal_caps(test_cfg['rpn'], 'rpn', max_per_img)}
            test_cfg['rpn'].update(needed)
        place['max_per_img'] = int(max_per_img)
    return cfg


def model_threshold(model: nn.Module) -> float | None:
    """The score below which a model drops detections by itself, before it draws masks of them; None where that must stay.

    It may be raised where nothing else changes by that: with greedy NMS a box never suppresses one of a higher score. Soft
    and matrix NMS, and Mask Scoring R-CNN, change scores afterwards.
    """
    roi_head = getattr(model, 'roi_head', None)
    rcnn = getattr(roi_head, 'test_cfg', None)
    if not isinstance(rcnn, Mapping) or hasattr(roi_head, 'mask_iou_head') or (rcnn.get('nms') or {}).get('type') != 'nms':
        return None
    return rcnn.get('score_thr')


def detections_kept(cfg: Config) -> int | None:
    """Most detections of an image; None without a limit."""
    test_cfg = cfg.model.get('test_cfg') or {}
    most = (test_cfg.get('rcnn') or test_cfg).get('max_per_img', -1)
    return most if most > 0 else None
