# Changes: a boundary branch in the mask head, with a loss of its own; the masks use what it finds.
# Why:     cross-entropy is an average over the mask, and the outline is a small part of it.
# Cost:    46.1 M parameters instead of 44.0 M; 20 tensors are new instead of 6, the branch's among them.
# Source:  BMask R-CNN, Cheng et al. 2020, arXiv:2007.08921; what is different here: mmext/heads/boundary_mask_head.py.
_base_ = '../mask_rcnn/mask-rcnn_r50_fpn_finetune_microplastics.py'

model = dict(roi_head=dict(mask_head=dict(
    type='mmext.BoundaryMaskHead',
    loss_boundary=dict(type='mmext.BoundaryLoss', loss_weight=1.0, bce_weight=1.0, dice_weight=1.0))))
