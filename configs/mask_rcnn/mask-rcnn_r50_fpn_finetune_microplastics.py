# Changes: MMDetection's Mask R-CNN R50-FPN, fine-tuned from COCO to Fiber, Fragment, Film with differential rates.
# Why:     box and mask predictors are new and need more than the pretrained parts: heads 10x, RPN 5x the backbone's rate.
# Cost:    none over the reference recipe. 1000 proposals in training, MMDetection's base (S3 keeps 2000).
# Source:  S0 (ratios), S3 (optimizer); weights of mask-rcnn_r50_fpn_ms-poly-3x_coco, COCO box AP 40.9, mask AP 37.1.
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
