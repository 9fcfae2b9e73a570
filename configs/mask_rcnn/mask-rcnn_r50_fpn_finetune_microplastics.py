# Changes: MMDetection's Mask R-CNN R50-FPN, fine-tuned from COCO to Fiber, Fragment, Film: Adam, heads 10x, RPN 2x.
# Why:     of the settings without a search for a rate the nearest to a searched one (docs/experiment.md, a small network).
# Cost:    350 MB for Adam's moments, SGD has 175. 1000 proposals in training, MMDetection's base (S3 keeps 2000).
# Source:  S1 (rates); weights of mask-rcnn_r50_fpn_ms-poly-3x_coco, COCO box AP 40.9, mask AP 37.1.
_base_ = [
    '../_base_/models/mask-rcnn_r50_fpn_quick.py',
    '../_base_/datasets/microplastics_instance.py',
    '../_base_/schedules/differential_10x_adam.py',
]

model = dict(
    roi_head=dict(
        bbox_head=dict(num_classes={{_base_.num_classes}}),
        mask_head=dict(num_classes={{_base_.num_classes}})))

load_from = 'https://download.openmmlab.com/mmdetection/v2.0/mask_rcnn/mask_rcnn_r50_fpn_mstrain-poly_3x_coco/mask_rcnn_r50_fpn_mstrain-poly_3x_coco_20210524_201154-21b550bb.pth'
