# Changes: mask loss, per-pixel binary cross-entropy -> generalized cross-entropy (GCE), q = 0.7.
# Why:     hand-drawn outlines err at the rim; GCE is bounded by 1/q a pixel, so a wrong rim pulls less.
# Cost:    no parameter, no extra pass; the loss has another scale: the healthy band of the mask share does not hold.
# Source:  Zhang and Sabuncu 2018, arXiv:1805.07836; S2.
_base_ = '../mask_rcnn/mask-rcnn_r50_fpn_finetune_microplastics.py'

model = dict(roi_head=dict(mask_head=dict(loss_mask=dict(
    _delete_=True,  # a changed type starts clean: no argument of the base's loss is merged in
    type='mmext.GCELoss', q=0.7, use_mask=True, loss_weight=1.0))))
