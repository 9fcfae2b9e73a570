"""MMDetection's mask head with the losses that stock cannot use: Dice, class weights, several at once."""

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from mmdet.models.losses import CrossEntropyLoss
from mmdet.models.roi_heads.mask_heads import FCNMaskHead as StockFCNMaskHead
from mmdet.registry import MODELS as MMDET_MODELS
from torch import Tensor, nn

from mmext.errors import InputError, raise_all
from mmext.heads.window_output import WindowOutput
from mmext.losses.parts import is_number, own_channel
from mmext.registry import MODELS

# RoIs that go through a mask head together in prediction: more than MMDetection's usual 100 detections of an image
_AT_ONCE = 128


def in_parts(forward: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    """What a mask head gives for RoI features, in even parts where no gradient is needed.

    A RoI takes about 13 times its features on the way through the head: with 1,250 detections and 256 channels 3 GB. RoIs
    have no say in each other. Parts of one or a few would be computed by other code, with other last digits.

    Args:
        forward: of the head.
        features: (R, channels, H, W).
    """
    if torch.is_grad_enabled() or len(features) <= _AT_ONCE:
        return forward(features)
    return torch.cat([forward(part) for part in features.tensor_split(-(-len(features) // _AT_ONCE))])


def channels_of(labels: Tensor, mask_preds: Tensor) -> Tensor:
    """Channel of each RoI's class (R,) in (R, C, H, W): its label, or 0 where one channel serves all classes."""
    return labels if mask_preds.size(1) > 1 else torch.zeros_like(labels)


def takes_channels(loss: nn.Module) -> bool:
    """Whether a loss wants all channels and the labels, as stock calls every one: with ``use_mask``, as CrossEntropyLoss has
    it, or unless its third argument is the ``weight`` that MMDetection's other losses have there."""
    return getattr(loss, 'use_mask', False) or list(inspect.signature(loss.forward).parameters)[2:3] != ['weight']


def mask_loss(loss: nn.Module, mask_preds: Tensor, mask_targets: Tensor, labels: Tensor) -> Tensor:
    """One loss of positive RoIs, on the channels of their classes.

    Cross-entropy with class weights is the mean over all pixels of weight times cross-entropy: as in CrossEntropyLoss for
    classes, it is not divided by the weights.

    Args:
        loss: as MODELS builds it.
        mask_preds: logits (R, C, H, W), or (R, 1, H, W) where one channel serves all classes.
        mask_targets: (R, H, W), 0 to 1.
        labels: classes (R,).

    Returns:
        Of the loss's own shape; 0 with a gradient when R = 0.
    """
    if not len(mask_preds):
        return mask_preds.sum()
    channels = channels_of(labels, mask_preds)
    if isinstance(loss, CrossEntropyLoss) and loss.class_weight is not None:
        weights = mask_targets.new_tensor(loss.class_weight)[labels][:, None, None]
        entropy = F.binary_cross_entropy_with_logits(own_channel(mask_preds, channels), mask_targets, weight=weights)
        return loss.loss_weight * entropy
    if takes_channels(loss):
        return loss(mask_preds, mask_targets, channels)
    return loss(own_channel(mask_preds, channels).float(), mask_targets)


def find_mistakes(loss: nn.Module, num_classes: int, class_agnostic: bool) -> list[str]:
    """What is wrong with a loss of a mask head, in words."""
    name, mistakes = type(loss).__name__, []
    entropy = isinstance(loss, CrossEntropyLoss)
    if entropy and not loss.use_mask:
        mistakes.append(f'FCNMaskHead: loss_mask is a {name} without use_mask. Set use_mask=True: it is per pixel then.')
    if entropy and loss.reduction != 'mean':
        mistakes.append(f"FCNMaskHead: reduction of {name} is {loss.reduction!r}; allowed: 'mean'.")
    weights = getattr(loss, 'class_weight', None)
    if weights is None:
        return mistakes
    if len(weights) != num_classes or not all(is_number(weight) and 0 <= weight < math.inf for weight in weights):
        mistakes.append(
            f'FCNMaskHead: class_weight of {name} is {list(weights)}; it must be {num_classes} numbers of 0 or more, '
            'one a class.'
        )
    if class_agnostic and not entropy:
        mistakes.append(
            f'FCNMaskHead: class_weight of {name} cannot be used with class_agnostic=True, where it sees class 0 alone. '
            'Leave one of the two out, or use CrossEntropyLoss.'
        )
    return mistakes


def loss_key(kind: str) -> str:
    """Short name of a loss by its class: ``DiceLoss`` to ``dice``, ``CrossEntropyLoss`` to ``cross_entropy``."""
    return re.sub(r'(?<=[a-z])(?=[A-Z])', '_', kind.removesuffix('Loss')).lower()


@MODELS.register_module()
class FCNMaskHead(WindowOutput, StockFCNMaskHead):
    """MMDetection's FCNMaskHead whose ``loss_mask`` may be Dice, weigh classes, or be several losses.

    ``mask_head=dict(type='mmext.FCNMaskHead', loss_mask=[dict(type='CrossEntropyLoss', use_mask=True),
    dict(type='DiceLoss')])``. Layers, names of weights and predictions are stock's, and so is the loss, to the bit, where
    stock's works. Stock hands every loss all channels, the targets and the labels:

    - DiceLoss takes the labels for weights of the RoIs. With more than one class the shapes do not fit, and it crashes; with
      one class, and with ``class_agnostic``, these weights are all 0: so are loss and gradient, in silence. Here it sees the
      channel of each RoI's class, and its mean is over positive RoIs. The same goes for MMDetection's other losses of a
      prediction and a target.
    - CrossEntropyLoss hands ``class_weight`` on as weights of the pixel columns: it crashes, or, with as many classes as the
      mask has columns, weighs columns. Here each RoI has the weight of its class, with ``class_agnostic`` too.

    A list's losses are summed as all losses of a model are, and logged one by one: ``cross_entropy.loss_mask``,
    ``dice.loss_mask``. Like a stage's ``s0.loss_mask`` they belong to the mask family.

    Args:
        loss_mask: config of a loss, or a list of them; by default stock's.
        args, kwargs: ``mask_output`` of :class:`mmext.heads.window_output.WindowOutput`, by which masks of predictions are
            RLEs, and those of MMDetection's FCNMaskHead.

    Raises:
        InputError: a loss that cannot be one of masks, weights that do not fit the classes, the same type twice in a list.
    """

    def __init__(self, *args, loss_mask: Mapping | Sequence[Mapping] | None = None, **kwargs):
        several = isinstance(loss_mask, (list, tuple))
        configs = list(loss_mask) if several else [] if loss_mask is None else [loss_mask]
        if (several and not configs) or not all(isinstance(cfg, Mapping) for cfg in configs):
            raise InputError(
                f'FCNMaskHead: loss_mask is {loss_mask!r}; it must be the config of a loss, such as '
                "dict(type='DiceLoss'), or a list of them."
            )
        super().__init__(*args, **({'loss_mask': configs[0]} if configs else {}), **kwargs)
        losses = [self.loss_mask, *map(MMDET_MODELS.build, configs[1:])]
        kinds = [type(loss).__name__ for loss in losses]
        mistakes = [text for loss in losses for text in find_mistakes(loss, self.num_classes, self.class_agnostic)]
        if len(set(kinds)) < len(kinds):
            mistakes.append(f'FCNMaskHead: loss_mask is a list of {", ".join(kinds)}; each type may stand in it once.')
        raise_all(mistakes)
        if several:
            self.loss_mask = nn.ModuleDict(zip(map(loss_key, kinds), losses, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (R, C, H', W') of RoI features (R, channels, H, W), in prediction by :func:`in_parts`."""
        return in_parts(super().forward, x)

    def loss_and_target(self, mask_preds: Tensor, sampling_results: list, batch_gt_instances: list, rcnn_train_cfg) -> dict:
        """Losses and mask targets of the positive RoIs.

        Args:
            mask_preds: logits (R, C, H, W) of the positive RoIs of all images.
            sampling_results: of each image.
            batch_gt_instances: ground truth of each image, with masks.
            rcnn_train_cfg: ``train_cfg.rcnn``, of which ``mask_size`` and ``soft_mask_target`` are used.

        Returns:
            ``loss_mask``, a dict of losses by name, and ``mask_targets`` (R, H, W).
        """
        targets = self.get_targets(sampling_results, batch_gt_instances, rcnn_train_cfg)
        labels = torch.cat([result.pos_gt_labels for result in sampling_results])
        if isinstance(self.loss_mask, nn.ModuleDict):
            named = {f'{key}.loss_mask': loss for key, loss in self.loss_mask.items()}
        else:
            named = {'loss_mask': self.loss_mask}
        losses = {name: mask_loss(loss, mask_preds, targets, labels) for name, loss in named.items()}
        return {'loss_mask': losses, 'mask_targets': targets}
