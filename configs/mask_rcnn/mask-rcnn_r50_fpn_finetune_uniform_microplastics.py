# Changes: SGD with one learning rate, 1e-3, for all parts, instead of Adam.
# Why:     to search for a rate from, upwards (docs/experiment.md); beside differential-10x it shows what the ratios change.
# Cost:    none. With a small network the rate was far too low: docs/experiment.md; `mmext sweep` finds a better one.
# Source:  S0 (the setting that it holds to be the cause of small masks), S3 (rate).
_base_ = [
    '../_base_/models/mask-rcnn_r50_fpn_quick.py',
    '../_base_/datasets/microplastics_instance.py',
    '../_base_/schedules/uniform.py',
]

model = dict(
    roi_head=dict(
        bbox_head=dict(num_classes={{_base_.num_classes}}),
        mask_head=dict(num_classes={{_base_.num_classes}})))

load_from = 'https://download.openmmlab.com/mmdetection/v2.0/mask_rcnn/mask_rcnn_r50_fpn_mstrain-poly_3x_coco/mask_rcnn_r50_fpn_mstrain-poly_3x_coco_20210524_201154-21b550bb.pth'
