"""BMask R-CNN's mask head: a branch that finds the boundary, and masks that use what it finds."""

import copy
from collections.abc import Mapping, Sequence

import torch
from mmcv.cnn import ConvModule
from mmdet.registry import MODELS as MMDET_MODELS
from torch import Tensor, nn

from mmext.class_rows import ClassAxis, class_axes
from mmext.heads.fcn_mask_head import FCNMaskHead, channels_of, in_parts
from mmext.registry import MODELS

# as in the authors' code
_BOUNDARY_CONVS = 2
_LOGITS_STD = 0.001


def join(masks: Tensor, boundaries: Tensor) -> Tensor:
    """Logits of masks and of boundaries, both (R, C, H, W), as one tensor (R, 2C, H, W), masks first."""
    return torch.cat([masks, boundaries], dim=1)


def split(preds: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of :func:`join`."""
    return preds.chunk(2, dim=1)


@MODELS.register_module()
class BoundaryMaskHead(FCNMaskHead):
    """``mmext.FCNMaskHead`` with BMask R-CNN's boundary branch: ``mask_head=dict(type='mmext.BoundaryMaskHead')``.

    F is the RoI feature, M that of the mask after ``convs``, B that of the boundary; a conv is followed by a ReLU::

        M  = convs(F)
        B  = boundary_convs(boundary_in(F) + boundary_from_mask(M))      3x3, 1x1, two 3x3
        M' = M + boundary_to_mask(B)                                     1x1, without ReLU
        masks = conv_logits(upsample(M')), boundaries = boundary_logits(boundary_upsample(B))

    Losses: those of the mask and ``loss_boundary``, which is in the mask family. Predictions use the masks alone. All
    weights of MMDetection's FCNMaskHead keep name and shape; what is new begins with ``boundary_``. ``boundary_to_mask``
    begins at 0: a freshly loaded head predicts the very masks of the one that its weights come from.

    The result of ``forward`` is one tensor, masks first, boundaries after them, in training and evaluation alike. RoI heads
    split it by image and pick a label's channel as they do with masks alone; nothing is kept on the head between forward and
    loss, and losses in evaluation mode have the boundary too.

    Source: Cheng et al., Boundary-preserving Mask R-CNN, ECCV 2020, arXiv:2007.08921. Different here: the boundary branch
    reads the same RoI feature as the mask; the authors give it one of its own, 28x28 from the finest level of the FPN, which
    a convolution of stride 2 brings to 14x14 (``boundary_in`` is that convolution with stride 1). And their code has a 3x3
    convolution after the sum M' and a ReLU after ``boundary_to_mask``; both would make loaded masks random at the start.

    Args:
        loss_boundary: config of the boundary's loss; by default ``mmext.BoundaryLoss``.
        args, kwargs: of ``mmext.FCNMaskHead``.
    """

    def __init__(self, *args, loss_boundary: Mapping | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.loss_boundary = MMDET_MODELS.build(loss_boundary or {'type': 'mmext.BoundaryLoss'})
        width = self.conv_out_channels if self.num_convs else self.in_channels

        def conv(channels: int, size: int) -> ConvModule:
            return ConvModule(channels, width, size, padding=size // 2, conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg)

        self.boundary_in = conv(self.in_channels, 3)
        self.boundary_from_mask = conv(width, 1)
        self.boundary_convs = nn.ModuleList(conv(width, 3) for _ in range(_BOUNDARY_CONVS))
        self.boundary_to_mask = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.boundary_to_mask.weight)
        nn.init.zeros_(self.boundary_to_mask.bias)
        # of the mask's kind and size, whatever the config has made of that
        self.boundary_upsample = copy.deepcopy(self.upsample)
        self.boundary_logits = copy.deepcopy(self.conv_logits)
        if isinstance(self.boundary_upsample, nn.ConvTranspose2d):
            nn.init.kaiming_normal_(self.boundary_upsample.weight, mode='fan_out', nonlinearity='relu')
            nn.init.zeros_(self.boundary_upsample.bias)
        nn.init.normal_(self.boundary_logits.weight, std=_LOGITS_STD)
        nn.init.zeros_(self.boundary_logits.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of masks and boundaries (R, 2C, H', W') of RoI features (R, channels, H, W), see :func:`split`.

        In prediction some RoIs at a time, see :func:`mmext.heads.fcn_mask_head.in_parts`.
        """
        return in_parts(self._logits, x)

    def _logits(self, x: Tensor) -> Tensor:
        masks = x
        for layer in self.convs:
            masks = layer(masks)
        boundaries = self.boundary_in(x) + self.boundary_from_mask(masks)
        for layer in self.boundary_convs:
            boundaries = layer(boundaries)
        masks = masks + self.boundary_to_mask(boundaries)
        return join(
            self.conv_logits(self._enlarged(masks, self.upsample)),
            self.boundary_logits(self._enlarged(boundaries, self.boundary_upsample)),
        )

    def _enlarged(self, features: Tensor, upsample: nn.Module | None) -> Tensor:
        """Stock's upsampling of the features before the logits."""
        if upsample is None:
            return features
        features = upsample(features)
        return self.relu(features) if self.upsample_method == 'deconv' else features

    def loss_and_target(self, mask_preds: Tensor, sampling_results: list, batch_gt_instances: list, rcnn_train_cfg) -> dict:
        """Those of ``mmext.FCNMaskHead``, with ``loss_boundary`` beside them; ``mask_preds`` as :meth:`forward` gives it."""
        masks, boundaries = split(mask_preds)
        found = super().loss_and_target(masks, sampling_results, batch_gt_instances, rcnn_train_cfg)
        labels = torch.cat([result.pos_gt_labels for result in sampling_results])
        found['loss_mask']['loss_boundary'] = self.loss_boundary(
            boundaries, found['mask_targets'], channels_of(labels, boundaries)
        )
        return found

    def predict_by_feat(self, mask_preds: Sequence[Tensor], *args, **kwargs) -> list:
        """MMDetection's, of the masks alone; ``mask_preds`` as :meth:`forward` gives it, of each image."""
        return super().predict_by_feat([split(preds)[0] for preds in mask_preds], *args, **kwargs)


@class_axes.register
def _of_boundaries(head: BoundaryMaskHead) -> dict[str, tuple[ClassAxis, ...]]:
    of_masks = class_axes.dispatch(FCNMaskHead)(head)
    return {**of_masks, 'boundary_logits': of_masks['conv_logits']} if of_masks else {}
