# Changes: Cascade Mask R-CNN with the soft mask loss (L1, targets that fade at the outline) in all three stages.
# Why:     the tighter boxes of the later stages leave the outline as what is uncertain.
# Cost:    as Cascade; the loss has another scale: the healthy band of the mask share does not hold.
# Source:  Cai and Vasconcelos 2018, arXiv:1712.00726; S2's soft mask loss; the combination is ours.
_base_ = '../cascade_mask_rcnn/cascade-mask-rcnn_r50_fpn_finetune_microplastics.py'

# one dict for all stages: MMDetection builds three heads of it
model = dict(roi_head=dict(mask_head=dict(loss_mask=dict(
    _delete_=True, type='mmext.SoftMaskLoss', width=2.0, loss_weight=1.0))))
