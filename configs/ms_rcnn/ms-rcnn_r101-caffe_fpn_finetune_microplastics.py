# Changes: backbone ResNet-50 -> ResNet-101, caffe-style as well.
# Why:     COCO mask AP 36.3 -> 38.1 with the same schedule.
# Cost:    79.2 M parameters instead of 60.2 M; checkpoint and new tensors: docs/models.md.
# Source:  weights of ms-rcnn_r101-caffe_fpn_2x_coco, COCO box AP 41.1, mask AP 38.1.
_base_ = './ms-rcnn_r50-caffe_fpn_finetune_microplastics.py'

model = dict(backbone=dict(depth=101, init_cfg=dict(checkpoint='open-mmlab://detectron2/resnet101_caffe')))

load_from = 'https://download.openmmlab.com/mmdetection/v2.0/ms_rcnn/ms_rcnn_r101_caffe_fpn_2x_coco/ms_rcnn_r101_caffe_fpn_2x_coco_bbox_mAP-0.411__segm_mAP-0.381_20200506_011134-5f3cc74f.pth'
