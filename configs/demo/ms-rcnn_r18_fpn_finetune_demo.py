# Changes: the demo with a head more, that learns the IoU of each predicted mask with the object's, 64 channels wide.
# Why:     Mask Scoring R-CNN in minutes on two CPU cores, to see its losses and shares before a full run.
# Cost:    1.4 times the demo's operations in a step. The source model gives all but the new head.
# Source:  Huang et al. 2019, arXiv:1903.00241; head as in configs/_base_/models/ms-rcnn_r50-caffe_fpn.py.
_base_ = './mask-rcnn_r18_fpn_finetune_demo.py'

model = dict(
    type='MaskScoringRCNN',
    roi_head=dict(
        type='MaskScoringRoIHead',
        mask_iou_head=dict(
            type='MaskIoUHead',
            num_convs=4,
            num_fcs=2,
            roi_feat_size=14,
            in_channels=64,
            conv_out_channels=64,
            fc_out_channels=256,
            num_classes={{_base_.num_classes}})),
    train_cfg=dict(rcnn=dict(mask_thr_binary=0.5)))
