# Changes: backbone ResNet-50 -> ResNet-101.
# Why:     COCO mask AP 38.5 -> 39.6 with the same schedule.
# Cost:    96.0 M parameters instead of 77.0 M; checkpoint and new tensors: docs/models.md.
# Source:  weights of cascade-mask-rcnn_r101_fpn_ms-3x_coco, COCO box AP 45.5, mask AP 39.6.
_base_ = './cascade-mask-rcnn_r50_fpn_finetune_microplastics.py'

model = dict(backbone=dict(depth=101, init_cfg=dict(checkpoint='torchvision://resnet101')))

load_from = 'https://download.openmmlab.com/mmdetection/v2.0/cascade_rcnn/cascade_mask_rcnn_r101_fpn_mstrain_3x_coco/cascade_mask_rcnn_r101_fpn_mstrain_3x_coco_20210628_165236-51a2d363.pth'
