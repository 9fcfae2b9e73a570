# Changes: the default's rates as S1 writes them: Adam 1e-3; backbone and neck 0.1x, RPN 0.2x, heads 1x.
# Why:     for who comes from S1, and for the stages of staged: a multiplier counts from the rate of the heads.
# Cost:    none.
# Source:  S1, example 1.
_base_ = [
    '../_base_/models/mask-rcnn_r50_fpn_quick.py',
    '../_base_/datasets/microplastics_instance.py',
    '../_base_/schedules/backbone_tenth.py',
]

model = dict(
    roi_head=dict(
        bbox_head=dict(num_classes={{_base_.num_classes}}),
        mask_head=dict(num_classes={{_base_.num_classes}})))

load_from = 'https://download.openmmlab.com/mmdetection/v2.0/mask_rcnn/mask_rcnn_r50_fpn_mstrain-poly_3x_coco/mask_rcnn_r50_fpn_mstrain-poly_3x_coco_20210524_201154-21b550bb.pth'
