# Changes: the demo's backbone and neck under a narrow SOLOv2 head, by SGD 2e-3; scale ranges a quarter of COCO's.
# Why:     SOLOv2 in minutes on two CPU cores, to see its losses and shares before a full run.
# Cost:    1.5 times the demo's operations in a step. The source model gives backbone and neck. No box AP.
# Source:  Wang et al. 2020, arXiv:2003.10152; head as in configs/_base_/models/solov2_r50_fpn.py.
_base_ = './mask-rcnn_r18_fpn_finetune_differential-10x_demo.py'

model = dict(
    _delete_=True,
    type='SOLOv2',
    data_preprocessor=_base_.model.data_preprocessor,
    backbone=_base_.model.backbone,
    neck=_base_.model.neck,
    mask_head=dict(
        type='SOLOV2Head',
        num_classes={{_base_.num_classes}},
        in_channels=64,
        feat_channels=128,
        stacked_convs=2,
        strides=[8, 8, 16, 32, 32],
        scale_ranges=((1, 24), (12, 48), (24, 96), (48, 192), (96, 512)),
        pos_scale=0.2,
        num_grids=[40, 36, 24, 16, 12],
        cls_down_index=0,
        mask_feature_head=dict(
            feat_channels=64,
            start_level=0,
            end_level=3,
            out_channels=64,
            mask_stride=4,
            norm_cfg=dict(type='GN', num_groups=32, requires_grad=True)),
        loss_mask=dict(type='DiceLoss', use_sigmoid=True, loss_weight=3.0),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0)),
    test_cfg=dict(
        nms_pre=500, score_thr=0.1, mask_thr=0.5, filter_thr=0.05, kernel='gaussian', sigma=2.0, max_per_img=100))

# the parts that there are, as in _base_/schedules/differential_10x_single_stage.py
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(
    _delete_=True, backbone=dict(lr_mult=1), neck=dict(lr_mult=1), mask_head=dict(lr_mult=10))))
val_evaluator = dict(metric='segm')
test_evaluator = val_evaluator
