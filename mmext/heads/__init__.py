from mmext.heads.boundary_mask_head import BoundaryMaskHead
from mmext.heads.coarse_mask_head import CoarseMaskHead
from mmext.heads.fcn_mask_head import FCNMaskHead
from mmext.heads.htc_mask_head import HTCMaskHead
from mmext.heads.min_size_rpn_head import MinSizeRPNHead
from mmext.heads.point_rend_roi_head import PointRendRoIHead
from mmext.heads.roi_extractor import SingleRoIExtractor
from mmext.heads.roi_pool import RoIPool

__all__ = [
    'BoundaryMaskHead',
    'CoarseMaskHead',
    'FCNMaskHead',
    'HTCMaskHead',
    'MinSizeRPNHead',
    'PointRendRoIHead',
    'RoIPool',
    'SingleRoIExtractor',
]
