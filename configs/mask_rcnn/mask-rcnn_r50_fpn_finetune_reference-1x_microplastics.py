# Changes: MMDetection's 1x schedule: batch 16, rate 0.02, 8/11 of 12 epochs, and multi-scale training.
# Why:     the reference recipe of the papers, for data sets of thousands of images.
# Cost:    batch 16 needs one large GPU; on eight set train_dataloader.batch_size=2, else give --auto-scale-lr.
# Source:  S2; MMDetection's schedule_1x; short side 480 to 960.
# Check:   warm-up-never-over: 500 iterations of warm-up are for thousands of images.
_base_ = [
    '../_base_/models/mask-rcnn_r50_fpn_quick.py',
    '../_base_/datasets/microplastics_instance.py',
    '../_base_/schedules/reference_1x.py',
    '../_base_/runtime.py',
]

model = dict(
    roi_head=dict(
        bbox_head=dict(num_classes={{_base_.num_classes}}),
        mask_head=dict(num_classes={{_base_.num_classes}})))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmext.LoadInstanceMasks'),
    dict(type='RandomResize', scale=[(1333, 480), (1333, 960)], keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(batch_size=16, dataset=dict(pipeline=train_pipeline))

load_from = 'https://download.openmmlab.com/mmdetection/v2.0/mask_rcnn/mask_rcnn_r50_fpn_mstrain-poly_3x_coco/mask_rcnn_r50_fpn_mstrain-poly_3x_coco_20210524_201154-21b550bb.pth'
