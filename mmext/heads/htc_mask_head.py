"""HTC's mask head with predictions as RLEs."""

from mmdet.models.roi_heads.mask_heads import HTCMaskHead as StockHTCMaskHead

from mmext.heads.window_output import WindowOutput
from mmext.registry import MODELS


@MODELS.register_module()
class HTCMaskHead(WindowOutput, StockHTCMaskHead):
    """MMDetection's HTCMaskHead with ``mask_output``: ``mask_head=dict(type='mmext.HTCMaskHead')``.

    Args:
        args, kwargs: of :class:`mmext.heads.window_output.WindowOutput` and of MMDetection's HTCMaskHead.
    """
