"""How well the anchors of a head fit the objects that it is to find."""

import copy
from dataclasses import dataclass

import numpy as np
from mmdet.registry import TASK_UTILS
from mmengine.config import ConfigDict

from mmext.errors import InputError

# factors on the scale of the anchors that are tried
_FACTORS = (0.125, 0.25, 0.5, 2, 4)
# for thin objects: MMDetection's usual three, and 1:5 and 5:1
_MORE_RATIOS = [0.2, 0.5, 1.0, 2.0, 5.0]


@dataclass(frozen=True)
class AnchorHead:
    """The head of a model that has anchors: ``key`` of its config; ``generator`` the config of its anchors; ``least_iou``
    below which an object gets no anchor at all, and ``good_iou`` from which on any anchor is its; None where the assigner
    does not go by such limits; ``allowed_border`` and ``divisor`` of padding in pixels."""

    key: str
    generator: ConfigDict
    least_iou: float | None
    good_iou: float | None
    allowed_border: float
    divisor: int


_POINTS = ('MlvlPointGenerator', 'mmdet.MlvlPointGenerator')


def anchor_head(model: ConfigDict) -> AnchorHead | None:
    """The RPN, or the head of a one-stage model, when it has anchors."""
    for key in ('rpn_head', 'bbox_head'):
        head = model.get(key)
        # RTMDet calls its points an anchor generator
        if isinstance(head, dict) and (head.get('anchor_generator') or {}).get('type', 'MlvlPointGenerator') not in _POINTS:
            train_cfg = model.get('train_cfg') or {}
            train_cfg = (train_cfg.get('rpn') if key == 'rpn_head' else train_cfg) or {}
            assigner = train_cfg.get('assigner') or {}
            least = good = None
            if assigner.get('type') in ('MaxIoUAssigner', 'mmext.MaxIoUAssigner'):
                good = assigner.pos_iou_thr
                least = assigner.get('min_pos_iou', 0.0) if assigner.get('match_low_quality', True) else good
            divisor = (model.get('data_preprocessor') or {}).get('pad_size_divisor', 1)
            return AnchorHead(
                f'model.{key}', head.anchor_generator, least, good, train_cfg.get('allowed_border', -1), divisor
            )
    return None


def build_generator(cfg: ConfigDict):
    """The anchor generator of a config.

    Raises:
        InputError: it cannot be built, or has no base anchors.
    """
    try:
        generator = TASK_UTILS.build(cfg)
    except Exception as error:  # whatever a setting of the person's config makes its code raise
        raise InputError(f'anchor_generator: cannot be built: {type(error).__name__}: {error}') from error
    if not hasattr(generator, 'base_anchors'):
        raise InputError(f'anchor_generator: {cfg.type} has no base anchors.')
    return generator


def best_anchor_iou(
    boxes: np.ndarray, image_sizes: np.ndarray, generator, allowed_border: float = -1, divisor: int = 1
) -> np.ndarray:
    """IoU of each box with the best of all anchors of its image.

    The rule: of the copies of a base anchor over the grid of its level the one with the nearest centre overlaps most, so one
    position of each base anchor is tried; the result is the maximum over all anchors. A flip moves the objects against the
    grid and may change it a little.

    Args:
        boxes: (N, 4) x1 y1 x2 y2 at the network's input.
        image_sizes: (N, 2) width and height there, before padding.
        generator: built, with ``base_anchors`` and ``strides``.
        allowed_border: how many pixels an anchor may reach over the image's edge; below 0 any.
        divisor: to a multiple of which the images are padded.

    Returns:
        (N,), 0 to 1; 0 for a box without area.
    """
    best = np.zeros(len(boxes))
    middle, areas = (boxes[:, :2] + boxes[:, 2:]) / 2, np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    padded = np.ceil(image_sizes / divisor) * divisor
    for stride, anchors in zip(generator.strides, generator.base_anchors, strict=True):
        last = np.ceil(padded / stride) - 1  # of the grid, across and down
        for anchor in anchors.double().numpy():
            low, high = np.zeros_like(last), last
            if allowed_border >= 0:
                low = np.maximum(low, np.ceil((-allowed_border - anchor[:2]) / stride))
                high = np.minimum(high, np.ceil((image_sizes + allowed_border - anchor[2:]) / stride) - 1)
            nearest = np.clip(np.rint((middle - (anchor[:2] + anchor[2:]) / 2) / stride), low, high)
            moved = np.tile(nearest * stride, 2) + anchor
            sides = np.minimum(boxes[:, 2:], moved[:, 2:]) - np.maximum(boxes[:, :2], moved[:, :2])
            shared = np.prod(np.maximum(sides, 0), axis=1)
            union = areas + np.prod(anchor[2:] - anchor[:2]) - shared
            iou = np.divide(shared, union, out=np.zeros_like(shared), where=(union > 0) & (low <= high).all(1))
            np.maximum(best, iou, out=best)
    return best


def better_anchors(boxes: np.ndarray, image_sizes: np.ndarray, head: AnchorHead, enough: float) -> tuple[str, float] | None:
    """Anchors of another size that leave the fewest objects out.

    Those with more ratios are tried only when no other scale alone is good enough: they change the number of anchors, so
    that the layer which tells them apart cannot be loaded from a checkpoint.

    Args:
        boxes: (N, 4), as for :func:`best_anchor_iou`.
        image_sizes: (N, 2).
        head: with a ``least_iou``.
        enough: share of objects that may be left out.

    Returns:
        The config lines and the share that they leave out; None for a generator whose sizes are not given by a scale.
    """
    key = 'octave_base_scale' if head.generator.get('octave_base_scale') else 'scales'
    now = head.generator.get(key)
    if not now:
        return None

    def tried(factor: float, ratios: list[float] | None = None) -> tuple[float, float, str, float]:
        scale = [_plain(one * factor) for one in now] if key == 'scales' else _plain(now * factor)
        changes = {key: scale} | ({'ratios': ratios} if ratios else {})
        generator = copy.deepcopy(head.generator)
        generator.update(changes)
        ious = best_anchor_iou(boxes, image_sizes, build_generator(generator), head.allowed_border, head.divisor)
        lines = ' '.join(f'{head.key}.anchor_generator.{name}={value}'.replace(' ', '') for name, value in changes.items())
        lost = float((ious < head.least_iou).mean())
        # of those that are good enough the one that fits best
        return (lost if lost > enough else 0.0), -float(ious.mean()), lines, lost

    best = min(tried(factor) for factor in _FACTORS)
    if best[0] and 0 < len(head.generator.get('ratios') or []) < len(_MORE_RATIOS):
        best = min(best, *(tried(factor, _MORE_RATIOS) for factor in (1, *_FACTORS)))
    return best[2], best[3]


def _plain(number: float) -> float | int:
    return int(number) if number == int(number) else number
