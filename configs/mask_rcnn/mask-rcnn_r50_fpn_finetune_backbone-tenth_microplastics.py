# Changes: Adam 1e-3 instead of SGD; backbone and neck 0.1x, RPN 0.2x, heads 1x.
# Why:     training stuck at 'heads' or 'all': the pretrained parts adapt slowly, the heads at full rate.
# Cost:    two moments a parameter: 350 MB of memory instead of 175 MB for momentum.
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
