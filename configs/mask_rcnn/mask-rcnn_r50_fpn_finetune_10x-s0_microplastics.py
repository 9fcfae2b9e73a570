# Changes: SGD 5e-3 instead of Adam, with S0's ratios: RPN 2.5e-2, heads 5e-2.
# Why:     S0's own figures; a small network did about as well with them as at rates that were searched (docs/experiment.md).
# Cost:    none in time; twice the linear rule for the backbone, twenty times for the heads: leave the gradients clipped.
# Source:  S0; its remedy for an exploding loss is base 1e-3 and heads 5x.
_base_ = [
    '../_base_/models/mask-rcnn_r50_fpn_quick.py',
    '../_base_/datasets/microplastics_instance.py',
    '../_base_/schedules/differential_10x_s0.py',
]

model = dict(
    roi_head=dict(
        bbox_head=dict(num_classes={{_base_.num_classes}}),
        mask_head=dict(num_classes={{_base_.num_classes}})))

load_from = 'https://download.openmmlab.com/mmdetection/v2.0/mask_rcnn/mask_rcnn_r50_fpn_mstrain-poly_3x_coco/mask_rcnn_r50_fpn_mstrain-poly_3x_coco_20210524_201154-21b550bb.pth'
