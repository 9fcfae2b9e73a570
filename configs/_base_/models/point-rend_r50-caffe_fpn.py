# Owns: model. MMDetection's point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py, the model alone: a coarse mask of 7x7 for the
# whole object, and a point head that decides at the 196 least certain points in training, at 784 a step in prediction.
# The RoI head is ours, for images without an object.
_base_ = './mask-rcnn_r50-caffe_fpn.py'

model = dict(
    type='PointRend',
    roi_head=dict(
        type='mmext.PointRendRoIHead',
        # sampled at a grid's centres on the finest level alone, for small and large objects alike
        mask_roi_extractor=dict(
            type='GenericRoIExtractor',
            aggregation='concat',
            roi_layer=dict(_delete_=True, type='SimpleRoIAlign', output_size=14),
            out_channels=256,
            featmap_strides=[4]),
        mask_head=dict(
            _delete_=True,
            type='mmext.CoarseMaskHead',
            num_fcs=2,
            in_channels=256,
            conv_out_channels=256,
            fc_out_channels=1024,
            num_classes=80,
            loss_mask=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0)),
        point_head=dict(
            type='MaskPointHead',
            num_fcs=3,
            in_channels=256,
            fc_channels=256,
            num_classes=80,
            coarse_pred_each_layer=True,
            loss_point=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0))),
    train_cfg=dict(
        rcnn=dict(
            mask_size=7,
            num_points=14 * 14,
            oversample_ratio=3,
            importance_sample_ratio=0.75)),
    test_cfg=dict(
        rcnn=dict(
            subdivision_steps=5,
            subdivision_num_points=28 * 28,
            scale_factor=2)))
