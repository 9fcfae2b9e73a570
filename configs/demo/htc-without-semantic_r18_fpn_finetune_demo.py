# Changes: the Cascade demo, with mask heads that pass their features on.
# Why:     Hybrid Task Cascade in minutes on two CPU cores, to see its losses and shares before a full run.
# Cost:    2.1 times the demo's operations in a step. The source model gives backbone, neck and RPN; the heads are new.
# Source:  Chen et al. 2019, arXiv:1901.07518; heads as in configs/htc, without the semantic branch.
_base_ = './cascade-mask-rcnn_r18_fpn_finetune_demo.py'

model = dict(
    type='HybridTaskCascade',
    roi_head=dict(
        type='HybridTaskCascadeRoIHead',
        interleaved=True,
        mask_info_flow=True,
        mask_head=[
            dict(_base_.model.roi_head.mask_head, type='mmext.HTCMaskHead', with_conv_res=stage > 0) for stage in range(3)
        ]),
    train_cfg=dict(
        rcnn=[
            dict(stage, assigner=dict(stage.assigner, match_low_quality=True))
            for stage in _base_.model.train_cfg.rcnn
        ]),
    test_cfg=dict(rcnn=dict(score_thr=0.001)))
