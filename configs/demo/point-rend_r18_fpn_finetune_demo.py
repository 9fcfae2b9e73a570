# Changes: the demo with a coarse 7x7 mask and a point head that refines it, as PointRend has them, 64 channels wide.
# Why:     PointRend in minutes on two CPU cores, to see its losses and shares before a full run.
# Cost:    0.6 times the demo's operations in a step. The source model gives all but the mask head.
# Source:  Kirillov et al. 2020, arXiv:1912.08193; heads as in configs/_base_/models/point-rend_r50-caffe_fpn.py.
_base_ = './mask-rcnn_r18_fpn_finetune_demo.py'

model = dict(
    type='PointRend',
    roi_head=dict(
        type='mmext.PointRendRoIHead',
        mask_roi_extractor=dict(
            type='GenericRoIExtractor',
            aggregation='concat',
            roi_layer=dict(_delete_=True, type='SimpleRoIAlign', output_size=14),
            featmap_strides=[4]),
        mask_head=dict(type='mmext.CoarseMaskHead', num_convs=0, num_fcs=2, fc_out_channels=256),
        point_head=dict(
            type='MaskPointHead',
            num_fcs=3,
            in_channels=64,
            fc_channels=64,
            num_classes={{_base_.num_classes}},
            coarse_pred_each_layer=True,
            loss_point=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0))),
    train_cfg=dict(rcnn=dict(mask_size=7, num_points=14 * 14, oversample_ratio=3, importance_sample_ratio=0.75)),
    test_cfg=dict(rcnn=dict(subdivision_steps=5, subdivision_num_points=28 * 28, scale_factor=2)))
