# Changes: Mask R-CNN -> Hybrid Task Cascade: Cascade whose mask heads pass features on. Its semantic branch is left out.
# Why:     COCO mask AP 36.5 (Cascade, 20 epochs) -> 38.3, with the branch, which needs a stuff map of every image.
# Cost:    77.2 M parameters instead of 44.0 M; a later mask head runs those before it too. Time: docs/models.md.
# Source:  Chen et al. 2019, arXiv:1901.07518; weights of htc_r50_fpn_20e_coco, COCO box AP 43.3, mask AP 38.3.
_base_ = [
    '../_base_/models/htc-without-semantic_r50_fpn.py',
    '../_base_/datasets/microplastics_instance.py',
    '../_base_/schedules/differential_10x_adam.py',
]

model = dict(
    roi_head=dict(
        # a list replaces the base's list, so each head is written again with our classes
        bbox_head=[dict(head, num_classes={{_base_.num_classes}}) for head in _base_.model.roi_head.bbox_head],
        mask_head=[dict(head, num_classes={{_base_.num_classes}}) for head in _base_.model.roi_head.mask_head]))

# all but the semantic head is loaded; the other heads learnt with its features added to theirs, and adapt to their absence
load_from = 'https://download.openmmlab.com/mmdetection/v2.0/htc/htc_r50_fpn_20e_coco/htc_r50_fpn_20e_coco_20200319-fe28c577.pth'
