# Changes: backbone ResNet-50 -> ResNeXt-101, 64 groups of width 4.
# Why:     COCO mask AP 37.1 -> 39.7 with the same schedule, the best of MMDetection's Mask R-CNN weights.
# Cost:    101.9 M parameters instead of 44.0 M; checkpoint and new tensors: docs/models.md.
# Source:  weights of mask-rcnn_x101-64x4d_fpn_ms-poly_3x_coco, COCO box AP 44.5, mask AP 39.7.
_base_ = './mask-rcnn_x101-32x4d_fpn_finetune_microplastics.py'

model = dict(backbone=dict(groups=64, init_cfg=dict(checkpoint='open-mmlab://resnext101_64x4d')))

load_from = 'https://download.openmmlab.com/mmdetection/v2.0/mask_rcnn/mask_rcnn_x101_64x4d_fpn_mstrain-poly_3x_coco/mask_rcnn_x101_64x4d_fpn_mstrain-poly_3x_coco_20210526_120447-c376f129.pth'
