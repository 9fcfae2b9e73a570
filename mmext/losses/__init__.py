from mmext.losses.boundary_loss import BoundaryLoss
from mmext.losses.gce_loss import GCELoss
from mmext.losses.soft_mask_loss import SoftMaskLoss

__all__ = ['BoundaryLoss', 'GCELoss', 'SoftMaskLoss']
