# Changes: the demo with three box and three mask heads, each on the boxes of the one before.
# Why:     Cascade Mask R-CNN in minutes on two CPU cores, to see its losses and shares before a full run.
# Cost:    1.5 times the demo's operations in a step. The source model gives backbone, neck and RPN; the heads are new.
# Source:  Cai and Vasconcelos 2018, arXiv:1712.00726; stages as in MMDetection's cascade-mask-rcnn_r50_fpn.py.
_base_ = './mask-rcnn_r18_fpn_finetune_demo.py'

model = dict(
    type='CascadeRCNN',
    rpn_head=dict(loss_bbox=dict(_delete_=True, type='SmoothL1Loss', beta=1 / 9, loss_weight=1.0)),
    roi_head=dict(
        type='CascadeRoIHead',
        num_stages=3,
        stage_loss_weights=[1, 0.5, 0.25],
        bbox_head=[
            dict(
                _base_.model.roi_head.bbox_head,
                bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=stds),
                reg_class_agnostic=True,
                loss_bbox=dict(type='SmoothL1Loss', beta=1.0, loss_weight=1.0))
            for stds in ([0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067])
        ]),
    train_cfg=dict(
        rpn=dict(allowed_border=0),
        rcnn=[
            dict(
                _base_.model.train_cfg.rcnn,
                assigner=dict(
                    type='mmext.MaxIoUAssigner', pos_iou_thr=iou, neg_iou_thr=iou, min_pos_iou=iou,
                    match_low_quality=False, ignore_iof_thr=-1))
            for iou in (0.5, 0.6, 0.7)
        ]))
