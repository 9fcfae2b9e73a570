# Changes: Mask R-CNN -> SOLOv2: no proposals, no boxes; each cell of a grid predicts a class and a mask of the whole image.
# Why:     masks at a quarter of the input's resolution, whatever the object's size: nothing is squeezed into a RoI.
# Cost:    46.2 M parameters instead of 44.0 M, 2 tensors new. No boxes, so no box AP; a mask share of about 72 % is usual.
# Source:  Wang et al. 2020, arXiv:2003.10152; weights of solov2_r50_fpn_ms-3x_coco, COCO mask AP 37.5.
_base_ = [
    '../_base_/models/solov2_r50_fpn.py',
    '../_base_/datasets/microplastics_instance.py',
    '../_base_/schedules/differential_10x_single_stage.py',
]

model = dict(mask_head=dict(num_classes={{_base_.num_classes}}))

val_evaluator = dict(metric='segm')
test_evaluator = val_evaluator

load_from = 'https://download.openmmlab.com/mmdetection/v2.0/solov2/solov2_r50_fpn_3x_coco/solov2_r50_fpn_3x_coco_20220512_125856-fed092d4.pth'
