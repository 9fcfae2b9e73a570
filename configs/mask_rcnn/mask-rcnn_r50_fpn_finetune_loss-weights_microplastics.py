# Changes: class and box losses of the RoI heads weigh 0.5, the mask loss 1; the RPN's weigh 1, as in the base.
# Why:     masks get more of the gradient that the shared layers see.
# Cost:    none in time. The log shows shares as optimised, and raw_share_* beside them.
# Source:  S1, example 3: weights [0.5, 0.5, 1.0] for class, box and mask.
_base_ = './mask-rcnn_r50_fpn_finetune_microplastics.py'

model = dict(
    rpn_head=dict(loss_cls=dict(loss_weight=1.0), loss_bbox=dict(loss_weight=1.0)),
    roi_head=dict(
        bbox_head=dict(loss_cls=dict(loss_weight=0.5), loss_bbox=dict(loss_weight=0.5)),
        mask_head=dict(loss_mask=dict(loss_weight=1.0))))
