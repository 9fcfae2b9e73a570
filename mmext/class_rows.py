"""Rows of classes: what of a checkpoint's class, box and mask predictors is of a class that the model has too, by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import singledispatch

import torch
from mmdet.datasets import CocoDataset
from mmdet.models.dense_heads import SOLOHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.mask_heads import CoarseMaskHead, FCNMaskHead, MaskIoUHead, MaskPointHead
from torch import Tensor, nn

from mmext.data.class_names import map_mistakes, matched_classes, trained_classes
from mmext.data.own_data import OTHER_CLASSES
from mmext.errors import InputError, raise_all, some

COCO_CLASSES = tuple(CocoDataset.METAINFO['classes'])


@dataclass(frozen=True)
class ClassAxis:
    """How the classes lie along one dimension of a tensor: one after the other, ``block`` entries each.

    ``before`` and ``after`` count the entries of no class on both sides: the features of a layer that classes are appended
    to, the background of a classifier.
    """

    dim: int = 0
    before: int = 0
    block: int = 1
    after: int = 0

    def size(self, classes: int) -> int:
        """Entries along the dimension."""
        return self.before + self.block * classes + self.after

    def places(self, labels: Sequence[int], classes: int) -> Tensor:
        """Entries of some of the classes, in the order of ``labels``, between those of no class."""
        every = torch.arange(self.size(classes))
        blocks = every[self.before : self.before + self.block * classes].reshape(classes, self.block)
        return torch.cat([every[: self.before], blocks[list(labels)].flatten(), every[self.before + self.block * classes :]])


@singledispatch
def class_axes(head: nn.Module) -> dict[str, tuple[ClassAxis, ...]] | None:
    """The layers of a head whose size follows the number of classes, by their name in the head; None: an unknown kind.

    A head of one's own that adds such a layer is made known by ``@class_axes.register``, as ``mmext.BoundaryMaskHead`` is.
    """
    return None


@class_axes.register
def _of_boxes(head: BBoxHead) -> dict[str, tuple[ClassAxis, ...]]:
    found = {'fc_cls': (ClassAxis(after=1),)} if head.with_cls else {}
    if head.with_reg and not head.reg_class_agnostic:
        found['fc_reg'] = (ClassAxis(block=head.bbox_coder.encode_size),)
    return found


@class_axes.register
def _of_masks(head: FCNMaskHead) -> dict[str, tuple[ClassAxis, ...]]:
    return {} if head.class_agnostic else {'conv_logits': (ClassAxis(),)}


@class_axes.register
def _of_coarse_masks(head: CoarseMaskHead) -> dict[str, tuple[ClassAxis, ...]]:
    return {'fc_logits': (ClassAxis(block=head.output_area),)}


@class_axes.register
def _of_points(head: MaskPointHead) -> dict[str, tuple[ClassAxis, ...]]:
    # the coarse masks of all classes are appended to the features: to those of the first layer, or of each
    widths = [head.in_channels, *[head.fc_channels if head.coarse_pred_each_layer else None] * head.num_fcs]
    layers = [*(f'fcs.{i}.conv' for i in range(head.num_fcs)), 'fc_logits']
    found = {layer: (ClassAxis(1, width),) for layer, width in zip(layers, widths, strict=True) if width is not None}
    if not head.class_agnostic:
        found['fc_logits'] = (ClassAxis(), *found.get('fc_logits', ()))
    return found


@class_axes.register
def _of_mask_iou(head: MaskIoUHead) -> dict[str, tuple[ClassAxis, ...]]:
    return {'fc_mask_iou': (ClassAxis(),)}


@class_axes.register
def _of_grids(head: SOLOHead) -> dict[str, tuple[ClassAxis, ...]]:
    return {'conv_cls': (ClassAxis(),)}


def class_tensors(model: nn.Module, classes: int) -> tuple[dict[str, tuple[ClassAxis, ...]], list[str]]:
    """The parameters of a model whose size follows the number of classes.

    Args:
        model: its heads are the modules with ``num_classes``, but for an RPN (object or not) and semantic heads.
        classes: of the data; heads with another number are left out.

    Returns:
        Parameter name to the dimensions that count classes. And what counts classes in a way that is not known: heads of
        another kind than :func:`class_axes` has, and layers of another size than it says.
    """
    found, unknown = {}, []
    for name, head in model.named_modules():
        if getattr(head, 'num_classes', None) != classes or next(head.parameters(), None) is None:
            continue
        if name.endswith('rpn_head') or type(head).__name__ in OTHER_CLASSES:  # as MMDetection's NumClassCheckHook
            continue
        layers = class_axes(head)
        if layers is None:
            unknown.append(f'{name} ({type(head).__name__})')
            continue
        for layer, axes in layers.items():
            prefix = f'{name}.{layer}' if name else layer
            for key, parameter in head.get_submodule(layer).named_parameters(prefix):
                own = tuple(axis for axis in axes if axis.dim < parameter.dim())  # a bias has no columns
                if all(parameter.size(axis.dim) == axis.size(classes) for axis in own):
                    found |= {key: own} if own else {}
                else:
                    unknown.append(key)
    return found, unknown


@dataclass(frozen=True)
class LoadedRows:
    """What a tensor got by class: ``loaded`` of ``total`` rows, or columns where its classes lie along the second dimension.

    ``classes``: the model's classes that they are of, and ``background`` for a classifier's last row.
    """

    loaded: int
    total: int
    what: str
    classes: tuple[str, ...]

    @property
    def whole(self) -> bool:
        return self.loaded == self.total

    def __str__(self) -> str:
        return f'{self.loaded} of {self.total} {self.what} loaded ({some(self.classes)})'


@dataclass(frozen=True)
class FoundRows:
    """``tensors``: parameter name to what is to be loaded in the place of the checkpoint's tensor. ``rows``: the same names
    to what of it is the checkpoint's. ``lines``: for the person."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    rows: dict[str, LoadedRows] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def put_into(self, checkpoint: dict) -> None:
        """Let the checkpoint, as it was read, have these tensors."""
        state = checkpoint.get('state_dict', checkpoint)
        for key in list(state):
            state[key] = self.tensors.get(key.removeprefix('module.'), state[key])


def with_rows(own: Tensor, theirs: Tensor, axes: Sequence[ClassAxis], to: Sequence[Tensor], of: Sequence[Tensor]) -> Tensor:
    """A copy of ``own`` with the entries ``to`` of each axis taken from the entries ``of`` of ``theirs``.

    Args:
        own, theirs: tensors that differ in size along the axes only.
        axes: the dimensions that count classes.
        to, of: of each axis, as many entries on both sides.
    """
    dim = axes[0].dim
    part = theirs.index_select(dim, of[0]).to(own.dtype)
    if len(axes) > 1:
        part = with_rows(own.index_select(dim, to[0]), part, axes[1:], to[1:], of[1:])
    return own.index_copy(dim, to[0], part)


def check_arguments(class_map: Mapping[str, str | None] | None, checkpoint_classes: Sequence[str]) -> None:
    """Raise InputError when they are not what :func:`find_rows` takes, as a config can have it."""
    known = class_map is None or isinstance(class_map, Mapping)
    if not known or not all(isinstance(old, str | None) for old in (class_map or {}).values()):
        raise InputError(
            f'ClassRowsHook: map is {class_map!r}; it must be a dict of a class of the data to one of the checkpoint, or to '
            "None: dict(fiber='hair')."
        )
    if isinstance(checkpoint_classes, str):
        raise InputError(
            f'ClassRowsHook: checkpoint_classes is the text {checkpoint_classes!r}, not a list of names. Add a comma: '
            f'({checkpoint_classes!r},).'
        )


def find_rows(
    model: nn.Module,
    checkpoint: Mapping,
    classes: Sequence[str],
    class_map: Mapping[str, str | None] | None = None,
    checkpoint_classes: Sequence[str] = (),
) -> FoundRows:
    """Rows of a checkpoint that belong to classes of the model: by name, in the place that they have in the model.

    Where no class is shared, nothing is found: then MMDetection leaves tensors of another number of classes as they were
    initialised, and loads those of the same number as they are, in order, of which a line warns.

    Args:
        model: not wrapped, initialised; what the checkpoint has no rows for keeps these values.
        checkpoint: what ``torch.load`` gave: a state dict, or a dict that holds one under ``state_dict``.
        classes: of the model, in the order of its labels.
        class_map: class of the model to the class of the checkpoint whose rows it takes; None: it takes none.
        checkpoint_classes: of the checkpoint, in order, where it does not say them. Without, one of 80 classes is COCO's,
            as for MMDetection's own ``init_detector``, unless the model has 80 too.

    Raises:
        InputError: a name of the map that one of the two sides does not have; a map for a checkpoint without names.
    """
    check_arguments(class_map, checkpoint_classes)
    given = checkpoint.get('state_dict', checkpoint)
    state = {name.removeprefix('module.'): value for name, value in given.items() if isinstance(value, Tensor)}
    own = {name.removeprefix('module.'): value for name, value in model.state_dict().items()}
    found, unknown = class_tensors(model, len(classes))
    axes_of = {name.removeprefix('module.'): axes for name, axes in found.items()}

    def fitting(number: int) -> list[str]:
        """Tensors of the layers that the checkpoint has in the model's size, but for this number of classes."""
        there = {name: axes for name, axes in axes_of.items() if name in state}
        fit = {name for name, axes in there.items() if _other_size(own[name], axes, number) == state[name].shape}
        # a bias without its weights would say nothing
        halved = {name.rpartition('.')[0] for name in axes_of if name not in fit}
        return [name for name in axes_of if name.rpartition('.')[0] not in halved]

    meta = checkpoint.get('meta')
    theirs = trained_classes(meta if isinstance(meta, Mapping) else {}) or tuple(checkpoint_classes)
    if not theirs and len(classes) != len(COCO_CLASSES) and fitting(len(COCO_CLASSES)):
        theirs = COCO_CLASSES
    if not theirs:
        return _without_names(class_map, [name for name in axes_of if name in state])
    if theirs == tuple(classes):  # its own checkpoint, in a test or to train on: a map was for the one before
        return FoundRows()
    raise_all([f'default_hooks.class_rows.{mistake}' for mistake in map_mistakes(class_map or {}, classes, theirs)])
    places = matched_classes(classes, theirs, class_map or {})
    labels = [label for label, place in enumerate(places) if place is not None]
    if not labels:
        return FoundRows(lines=[_nothing_shared(classes, theirs)])
    from_labels = [places[label] for label in labels]
    tensors, rows = {}, {}
    for name in fitting(len(theirs)):
        axes = axes_of[name]
        to = [axis.places(labels, len(classes)) for axis in axes]
        of = [axis.places(from_labels, len(theirs)) for axis in axes]
        tensors[name] = with_rows(own[name].cpu(), state[name].cpu(), axes, to, of)
        kept = tuple(classes[label] for label in labels) + ('background',) * axes[0].after
        rows[name] = LoadedRows(len(to[0]), own[name].size(axes[0].dim), ('rows', 'columns')[axes[0].dim], kept)
    return FoundRows(tensors, rows, _lines(classes, theirs, places, bool(tensors), unknown))


def _other_size(tensor: Tensor, axes: Sequence[ClassAxis], classes: int) -> torch.Size:
    """The shape of a tensor with another number of classes."""
    sizes = {axis.dim: axis.size(classes) for axis in axes}
    return torch.Size(sizes.get(dim, size) for dim, size in enumerate(tensor.shape))


def _without_names(class_map: Mapping | None, there: Sequence[str]) -> FoundRows:
    if class_map:
        raise InputError(
            'default_hooks.class_rows.map: the checkpoint does not name its classes, so there is nothing to take rows from. '
            'Give them in the order of its labels: default_hooks.class_rows.checkpoint_classes=one,two'
        )
    line = 'The checkpoint does not name its classes, so rows are not found by name: what has the same shape is loaded.'
    return FoundRows(lines=[line] if there else [])


def _nothing_shared(classes: Sequence[str], theirs: Sequence[str]) -> str:
    what = 'their rows start new'
    if len(classes) == len(theirs):
        what = f'as they are as many, their rows are loaded in order: {theirs[0]} for {classes[0]}, and so on'
    return (
        f'No class of the data ({some(classes)}) is one of the checkpoint ({some(theirs)}); {what}. '
        f'One under another name: default_hooks.class_rows.map.{classes[0]}={theirs[0]}'
    )


def _lines(classes: Sequence[str], theirs: Sequence[str], places: Sequence, fits: bool, unknown: Sequence[str]) -> list[str]:
    pairs = [(name, None if place is None else theirs[place]) for name, place in zip(classes, places, strict=True)]
    kept = [name if name == old else f'{name} (from {old})' for name, old in pairs if old is not None]
    new = [name for name, old in pairs if old is None]
    if fits:
        lines = [f'Classes that keep their rows of the checkpoint: {some(kept)}. New: {some(new) or "none"}.']
    else:
        lines = [f'The checkpoint has {some(kept)} too, but no rows of them that fit the heads of this model.']
    if unknown:
        lines.append(f'Left as MMDetection loads it, as how it counts classes is not known: {some(unknown)}.')
    return lines
