# Changes: a head more, that learns the IoU of each predicted mask with the object's; caffe-style R50.
# Why:     scores rank masks by the quality of the mask, not of the class: mask AP rises, box AP does not.
# Cost:    60.2 M parameters instead of 44.0 M. Scores of boxes are multiplied too. Its loss, mask_iou, has no healthy band.
# Source:  Huang et al. 2019, arXiv:1903.00241; weights of ms-rcnn_r50-caffe_fpn_2x_coco, COCO box AP 38.8, mask AP 36.3.
_base_ = [
    '../_base_/models/ms-rcnn_r50-caffe_fpn.py',
    '../_base_/datasets/microplastics_instance.py',
    '../_base_/schedules/differential_10x_adam.py',
]

model = dict(
    roi_head=dict(
        bbox_head=dict(num_classes={{_base_.num_classes}}),
        mask_head=dict(num_classes={{_base_.num_classes}}),
        mask_iou_head=dict(num_classes={{_base_.num_classes}})))

load_from = 'https://download.openmmlab.com/mmdetection/v2.0/ms_rcnn/ms_rcnn_r50_caffe_fpn_2x_coco/ms_rcnn_r50_caffe_fpn_2x_coco_bbox_mAP-0.388__segm_mAP-0.363_20200506_004738-ee87b137.pth'
