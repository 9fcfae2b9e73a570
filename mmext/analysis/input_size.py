"""Size of objects where the network sees them: after the pipeline's resize, from annotations alone. No torch."""

from collections.abc import Sequence

# transforms that are understood, and whose arguments each has
_KNOWN = {
    'Resize': 'Resize',
    'FixScaleResize': 'Resize',
    'RandomResize': 'RandomResize',
    'RandomChoiceResize': 'RandomChoiceResize',
}
# in the name of a transform that changes the scale
_SCALING = ('Resize', 'Rescale', 'Mosaic', 'MixUp', 'Affine', 'Expand')


def keep_ratio_size(width: int, height: int, scale: Sequence[float]) -> tuple[int, int]:
    """Size of an image that is fitted into ``scale`` (long and short side, in either order) with its aspect ratio kept."""
    factor = min(max(scale) / max(width, height), min(scale) / min(width, height))
    return int(width * factor + 0.5), int(height * factor + 0.5)


def input_size(transforms: Sequence, width: int, height: int) -> tuple[int, int]:
    """Size of an image after the resizing transforms of a pipeline, the largest that they may draw; in pixels.

    Args:
        transforms: built ones; ``Resize``, ``RandomResize``, ``RandomChoiceResize`` and a ``RandomChoice`` of such
            count. See :func:`not_understood` for others that may change the scale.
        width: of the original image.
        height: likewise.
    """
    for transform in transforms:
        if type(transform).__name__ == 'RandomChoice':
            choices = [input_size(choice.transforms, width, height) for choice in transform.transforms]
            width, height = max(choices, key=lambda size: size[0] * size[1])
            continue
        scales, keep_ratio = _scales(transform, width, height)
        sizes = [
            keep_ratio_size(width, height, scale) if keep_ratio else tuple(int(side + 0.5) for side in scale)
            for scale in scales
        ]
        width, height = max(sizes, key=lambda size: size[0] * size[1], default=(width, height))
    return width, height


def not_understood(transforms: Sequence) -> list[str]:
    """Transforms that change the scale of objects in a way that :func:`input_size` does not know, by name."""
    inner = [one for transform in transforms for choice in getattr(transform, 'transforms', []) for one in choice.transforms]
    names = [type(transform).__name__ for transform in (*transforms, *inner) if _kind(transform) is None]
    return [name for name in dict.fromkeys(names) if any(word in name for word in _SCALING)]


def _kind(transform: object) -> str | None:
    """Whose arguments a transform has."""
    return _KNOWN.get(type(transform).__name__)


def _scales(transform: object, width: int, height: int) -> tuple[list[Sequence[float]], bool]:
    """The (width, height) that a transform may fit an image into, and whether it keeps the aspect ratio."""
    kind = _kind(transform)
    if kind == 'Resize':
        if transform.scale is None:
            factor = transform.scale_factor
            across, down = factor if isinstance(factor, (tuple, list)) else (factor, factor)
            return [(width * across, height * down)], False
        return [transform.scale], transform.keep_ratio
    if kind is None:
        return [], False
    keep_ratio = transform.resize_cfg.get('keep_ratio', False)
    if kind == 'RandomChoiceResize':
        return list(transform.scales), keep_ratio
    if transform.ratio_range:
        return [tuple(side * max(transform.ratio_range) for side in transform.scale)], keep_ratio
    return [tuple(map(max, zip(*transform.scale, strict=True)))], keep_ratio
