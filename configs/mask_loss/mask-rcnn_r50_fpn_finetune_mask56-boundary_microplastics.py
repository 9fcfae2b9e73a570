# Changes: the boundary branch on masks of 56x56: mask RoIAlign 14 -> 28, in training mask_size 28 -> 56.
# Why:     a boundary is one pixel of the grid thick: its two sides take a fourteenth of 28x28, half of that on 56x56.
# Cost:    4 times the operations and memory of the boundary recipe's mask head; all COCO weights of the mask branch fit.
# Source:  the boundary and the mask56 recipe; the combination is ours.
_base_ = './mask-rcnn_r50_fpn_finetune_boundary_microplastics.py'

model = dict(
    roi_head=dict(mask_roi_extractor=dict(roi_layer=dict(output_size=28))),
    train_cfg=dict(rcnn=dict(mask_size=56)))
