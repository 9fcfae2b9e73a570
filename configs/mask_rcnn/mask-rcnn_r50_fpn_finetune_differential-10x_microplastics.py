# Changes: SGD 1e-3 instead of Adam; RPN 5x, both heads 10x the rate of backbone and neck.
# Why:     S0's cure for small masks: box and mask predictors are new and need more than the pretrained parts.
# Cost:    none. With a small network the base rate was too low: docs/experiment.md; `mmext sweep` finds a better one.
# Source:  S0 (ratios), S3 (optimizer and rate).
_base_ = [
    '../_base_/models/mask-rcnn_r50_fpn_quick.py',
    '../_base_/datasets/microplastics_instance.py',
    '../_base_/schedules/differential_10x.py',
]

model = dict(
    roi_head=dict(
        bbox_head=dict(num_classes={{_base_.num_classes}}),
        mask_head=dict(num_classes={{_base_.num_classes}})))

load_from = 'https://download.openmmlab.com/mmdetection/v2.0/mask_rcnn/mask_rcnn_r50_fpn_mstrain-poly_3x_coco/mask_rcnn_r50_fpn_mstrain-poly_3x_coco_20210524_201154-21b550bb.pth'
