# Changes: backbone ResNet-50 -> ResNeXt-101, 32 groups of width 8; blue first, its own mean and deviation, fixed batch norm.
# Why:     the X101 whose box AP S2 quotes (44.3); its input is unlike that of the other two X101.
# Cost:    107.2 M parameters instead of 44.0 M; checkpoint and new tensors: docs/models.md.
# Source:  weights of mask-rcnn_x101-32x8d_fpn_ms-poly-3x_coco, COCO box AP 44.3 (no mask AP published in its metafile).
_base_ = './mask-rcnn_x101-32x4d_fpn_finetune_microplastics.py'

model = dict(
    # trained with Caffe2, so as mask-rcnn_x101-32x8d_fpn_ms-poly-3x_coco.py has it
    data_preprocessor=dict(
        mean=[103.530, 116.280, 123.675],
        std=[57.375, 57.120, 58.395],
        bgr_to_rgb=False),
    backbone=dict(
        base_width=8,
        norm_cfg=dict(requires_grad=False),
        init_cfg=dict(checkpoint='open-mmlab://detectron2/resnext101_32x8d')))

load_from = 'https://download.openmmlab.com/mmdetection/v2.0/mask_rcnn/mask_rcnn_x101_32x8d_fpn_mstrain-poly_3x_coco/mask_rcnn_x101_32x8d_fpn_mstrain-poly_3x_coco_20210607_161042-8bd2c639.pth'
