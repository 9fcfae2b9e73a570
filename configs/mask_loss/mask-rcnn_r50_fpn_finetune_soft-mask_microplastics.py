# Changes: mask loss -> L1 between probability and a target that fades over 2 mask pixels on both sides of the outline.
# Why:     where outlines are uncertain by a pixel or two, the target says so.
# Cost:    a distance transform of the mask targets. Another scale: the healthy band of the mask share does not hold.
# Source:  S2, which gives no formula: clip(0.5 + (d_in - d_out) / (2 * width), 0, 1), width in pixels of the 28x28 target.
_base_ = '../mask_rcnn/mask-rcnn_r50_fpn_finetune_microplastics.py'

model = dict(roi_head=dict(mask_head=dict(loss_mask=dict(
    _delete_=True, type='mmext.SoftMaskLoss', width=2.0, loss_weight=1.0))))
