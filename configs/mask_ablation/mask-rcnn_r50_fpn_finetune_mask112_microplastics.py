# Changes: masks of 112x112 instead of 28x28: mask RoIAlign 14 -> 56. No layer more, so all COCO weights fit.
# Why:     the fine end of the ablation; for objects of several hundred pixels.
# Cost:    16 times the mask head's operations and memory: with too little, model.train_cfg.rcnn.sampler.num=128.
# Source:  ours; S2 stops at 56 ("56x56 or higher").
_base_ = '../mask_rcnn/mask-rcnn_r50_fpn_finetune_microplastics.py'

model = dict(
    roi_head=dict(mask_roi_extractor=dict(roi_layer=dict(output_size=56))),
    train_cfg=dict(rcnn=dict(mask_size=112)))
