# Changes: the demo with mask targets of 0 to 1, the covered share of each pixel.
# Why:     they need masks of pixels, and a pipeline cannot be given in --cfg-options.
# Cost:    none at this size.
# Source:  configs/mask_loss/mask-rcnn_r50_fpn_finetune_soft-target_microplastics.py.
_base_ = './mask-rcnn_r18_fpn_finetune_demo.py'

model = dict(train_cfg=dict(rcnn=dict(soft_mask_target=True)))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmext.LoadInstanceMasks', polygons=False),
    dict(type='Resize', scale={{_base_.image_scale}}, keep_ratio=True),
    dict(type='RandomFlip', prob=[0.3, 0.3], direction=['horizontal', 'vertical']),
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
