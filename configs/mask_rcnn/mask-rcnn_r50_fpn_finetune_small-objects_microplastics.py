# Changes: images at 1600x960, anchors half as large, the mask loss weighs 2.
# Why:     objects of a few pixels: the smallest anchor is 16 pixels wide, not 32; masks have more pixels to learn from.
# Cost:    1.4 times the pixels, so about 1.4 times the time and memory of an iteration.
# Source:  S0 names mask weight and image size for very small objects; the figures are ours and were not measured.
_base_ = './mask-rcnn_r50_fpn_finetune_microplastics.py'

model = dict(
    rpn_head=dict(anchor_generator=dict(scales=[4])),
    roi_head=dict(mask_head=dict(loss_mask=dict(loss_weight=2.0))))

image_scale = (1600, 960)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmext.LoadInstanceMasks'),
    dict(type='Resize', scale=image_scale, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=image_scale, keep_ratio=True),
    dict(type='mmext.LoadInstanceMasks'),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
