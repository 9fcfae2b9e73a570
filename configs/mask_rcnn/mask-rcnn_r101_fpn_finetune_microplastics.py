# Changes: backbone ResNet-50 -> ResNet-101.
# Why:     COCO mask AP 37.1 -> 38.5 with the same schedule; S3's own step up when R50 is not enough.
# Cost:    63.0 M parameters instead of 44.0 M; checkpoint and new tensors: docs/models.md.
# Source:  weights of mask-rcnn_r101_fpn_ms-poly-3x_coco, COCO box AP 42.7, mask AP 38.5.
_base_ = './mask-rcnn_r50_fpn_finetune_microplastics.py'

model = dict(backbone=dict(depth=101, init_cfg=dict(checkpoint='torchvision://resnet101')))

load_from = 'https://download.openmmlab.com/mmdetection/v2.0/mask_rcnn/mask_rcnn_r101_fpn_mstrain-poly_3x_coco/mask_rcnn_r101_fpn_mstrain-poly_3x_coco_20210524_200244-5675c317.pth'
