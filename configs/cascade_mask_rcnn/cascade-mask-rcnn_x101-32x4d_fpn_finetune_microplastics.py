# Changes: backbone ResNet-50 -> ResNeXt-101, 32 groups of width 4.
# Why:     COCO mask AP 38.5 -> 40.1 with the same schedule.
# Cost:    95.6 M parameters instead of 77.0 M; checkpoint and new tensors: docs/models.md.
# Source:  weights of cascade-mask-rcnn_x101-32x4d_fpn_ms-3x_coco, COCO box AP 46.3, mask AP 40.1.
_base_ = './cascade-mask-rcnn_r50_fpn_finetune_microplastics.py'

model = dict(
    backbone=dict(
        type='ResNeXt',
        depth=101,
        groups=32,
        base_width=4,
        init_cfg=dict(checkpoint='open-mmlab://resnext101_32x4d')))

load_from = 'https://download.openmmlab.com/mmdetection/v2.0/cascade_rcnn/cascade_mask_rcnn_x101_32x4d_fpn_mstrain_3x_coco/cascade_mask_rcnn_x101_32x4d_fpn_mstrain_3x_coco_20210706_225234-40773067.pth'
