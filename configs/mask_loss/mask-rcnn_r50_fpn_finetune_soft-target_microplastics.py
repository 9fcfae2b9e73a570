# Changes: mask targets are the covered share of each pixel, 0 to 1, instead of 0 or 1; the loss stays cross-entropy.
# Why:     a thin fiber covers a part of many pixels of a 28x28 grid; rounding loses it or makes it thicker.
# Cost:    polygons are drawn, for training and validation loss, since as polygons they give 0 and 1 only (ValueError).
# Source:  MMDetection's train_cfg.rcnn.soft_mask_target. The least loss is above 0: the entropy of the targets.
_base_ = '../mask_rcnn/mask-rcnn_r50_fpn_finetune_microplastics.py'

model = dict(train_cfg=dict(rcnn=dict(soft_mask_target=True)))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmext.LoadInstanceMasks', polygons=False),
    dict(type='Resize', scale={{_base_.image_scale}}, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale={{_base_.image_scale}}, keep_ratio=True),
    dict(type='mmext.LoadInstanceMasks', polygons=False),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
