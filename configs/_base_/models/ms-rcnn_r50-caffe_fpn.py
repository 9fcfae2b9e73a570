# Owns: model. MMDetection's ms_rcnn/ms-rcnn_r50-caffe_fpn_1x_coco.py, the model alone: a head that learns the IoU of each
# predicted mask with the object's, by which the scores are multiplied in prediction.
_base_ = './mask-rcnn_r50-caffe_fpn.py'

model = dict(
    type='MaskScoringRCNN',
    roi_head=dict(
        type='MaskScoringRoIHead',
        mask_iou_head=dict(
            type='MaskIoUHead',
            num_convs=4,
            num_fcs=2,
            roi_feat_size=14,
            in_channels=256,
            conv_out_channels=256,
            fc_out_channels=1024,
            num_classes=80)),
    train_cfg=dict(rcnn=dict(mask_thr_binary=0.5)))
