# Changes: the demo with the Dice loss added to the mask's binary cross-entropy.
# Why:     a list of losses cannot be given in --cfg-options; another loss alone can.
# Cost:    none.
# Source:  configs/mask_loss/mask-rcnn_r50_fpn_finetune_dice-bce_microplastics.py.
_base_ = './mask-rcnn_r18_fpn_finetune_demo.py'

model = dict(roi_head=dict(mask_head=dict(
    type='mmext.FCNMaskHead',
    loss_mask=[
        dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0),
        dict(type='DiceLoss', use_sigmoid=True, loss_weight=1.0),
    ])))
