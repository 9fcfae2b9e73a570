"""PointRend's coarse mask head with predictions as RLEs."""

from mmdet.models.roi_heads.mask_heads import CoarseMaskHead as StockCoarseMaskHead

from mmext.heads.window_output import WindowOutput
from mmext.registry import MODELS


@MODELS.register_module()
class CoarseMaskHead(WindowOutput, StockCoarseMaskHead):
    """MMDetection's CoarseMaskHead with ``mask_output``: ``mask_head=dict(type='mmext.CoarseMaskHead')``.

    Args:
        args, kwargs: of :class:`mmext.heads.window_output.WindowOutput` and of MMDetection's CoarseMaskHead.
    """

    # PointRendRoIHead refines a copy, to 224x224 for each class, and drops it afterwards
    logits_are_its_own = True
