# Changes: backbone ResNet-50 -> ResNeXt-101, 32 groups of width 4.
# Why:     COCO mask AP 37.1 -> 39.0 with the same schedule.
# Cost:    62.6 M parameters instead of 44.0 M; checkpoint and new tensors: docs/models.md.
# Source:  weights of mask-rcnn_x101-32x4d_fpn_ms-poly-3x_coco, COCO box AP 43.6, mask AP 39.0.
_base_ = './mask-rcnn_r50_fpn_finetune_microplastics.py'

model = dict(
    backbone=dict(
        type='ResNeXt',
        depth=101,
        groups=32,
        base_width=4,
        init_cfg=dict(checkpoint='open-mmlab://resnext101_32x4d')))

load_from = 'https://download.openmmlab.com/mmdetection/v2.0/mask_rcnn/mask_rcnn_x101_32x4d_fpn_mstrain-poly_3x_coco/mask_rcnn_x101_32x4d_fpn_mstrain-poly_3x_coco_20210524_201410-abcd7859.pth'
