# Changes: the Dice loss added to the mask's binary cross-entropy, both with weight 1.
# Why:     Dice weighs every object alike, however few pixels it covers: thin fibers in large boxes are not outvoted.
# Cost:    none in time; the mask's share of the total rises, and the healthy band of the mask share does not hold.
# Source:  Milletari et al. 2016, arXiv:1606.04797 (Dice as MMDetection computes it, squares below the line).
_base_ = '../mask_rcnn/mask-rcnn_r50_fpn_finetune_microplastics.py'

model = dict(roi_head=dict(mask_head=dict(
    type='mmext.FCNMaskHead',  # MMDetection's takes one loss, and fails with Dice
    loss_mask=[
        dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0),
        dict(type='DiceLoss', use_sigmoid=True, loss_weight=1.0),
    ])))
