"""PointRend's RoI head, for images without an object too."""

from mmdet.models.roi_heads import PointRendRoIHead as StockPointRendRoIHead
from torch import Tensor

from mmext.registry import MODELS


@MODELS.register_module()
class PointRendRoIHead(StockPointRendRoIHead):
    """MMDetection's PointRendRoIHead that goes on where an image has no object.

    ``roi_head=dict(type='mmext.PointRendRoIHead')``.

    Stock ends with "RoI is a empty tensor." when a training batch has no positive RoI, or when one of several images that
    are predicted together has no detection, as at the beginning of a training most have. With RoIs it is MMDetection's.
    """

    def _get_fine_grained_point_feats(self, x: tuple[Tensor], rois: Tensor, rel_roi_points: Tensor) -> Tensor:
        """Features of P points of R RoIs (R, channels of all levels, P)."""
        if len(rois):
            return super()._get_fine_grained_point_feats(x, rois, rel_roi_points)
        channels = sum(level.size(1) for level in x[: self.mask_roi_extractor.num_inputs])
        return x[0].new_zeros(0, channels, rel_roi_points.size(1))

    def _mask_point_loss(
        self, x: tuple[Tensor], sampling_results: list, mask_preds: Tensor, batch_gt_instances: list
    ) -> dict:
        """MMDetection's loss of the points; without a positive RoI 0, through the head: each process has a gradient."""
        if len(mask_preds):
            return super()._mask_point_loss(x, sampling_results, mask_preds, batch_gt_instances)
        points = mask_preds.new_zeros(0, self.train_cfg.num_points, 2)
        coarse = mask_preds.new_zeros(0, mask_preds.size(1), points.size(1))
        scores = self.point_head(self._get_fine_grained_point_feats(x, points[:, 0], points), coarse)
        return {'loss_point': scores.sum(), 'point_target': scores.new_zeros(0, points.size(1))}
