# Owns: model. MMDetection's htc/htc-without-semantic_r50_fpn_1x_coco.py, the model alone, with padded masks: Cascade Mask
# R-CNN whose mask heads see the boxes of their own stage and the features of the mask head before them.
_base_ = './cascade-mask-rcnn_r50_fpn_quick.py'

model = dict(
    type='HybridTaskCascade',
    roi_head=dict(
        type='HybridTaskCascadeRoIHead',
        interleaved=True,
        mask_info_flow=True,
        mask_head=[
            dict(
                type='mmext.HTCMaskHead',
                with_conv_res=False,  # the first has none before it
                num_convs=4,
                in_channels=256,
                conv_out_channels=256,
                num_classes=80,
                loss_mask=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0)),
            dict(
                type='mmext.HTCMaskHead',
                num_convs=4,
                in_channels=256,
                conv_out_channels=256,
                num_classes=80,
                loss_mask=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0)),
            dict(
                type='mmext.HTCMaskHead',
                num_convs=4,
                in_channels=256,
                conv_out_channels=256,
                num_classes=80,
                loss_mask=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0)),
        ]),
    # MMDetection's HTC leaves match_low_quality at its default, True; its Cascade has False
    train_cfg=dict(
        rcnn=[
            dict(stage, assigner=dict(stage.assigner, match_low_quality=True))
            for stage in _base_.model.train_cfg.rcnn
        ]),
    test_cfg=dict(rcnn=dict(score_thr=0.001)))
