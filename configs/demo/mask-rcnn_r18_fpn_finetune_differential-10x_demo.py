# Changes: SGD 2e-3 instead of Adam; RPN 5x, both heads 10x the rate of backbone and neck.
# Why:     S0's cure for small masks, beside the same rate for all (uniform).
# Cost:    none.
# Source:  S0's ratios at 2e-3, the linear rule on S3's rate for a batch of 4; what it reaches: docs/demo.md.
_base_ = './mask-rcnn_r18_fpn_finetune_demo.py'

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='SGD', lr=2e-3, momentum=0.9, weight_decay=5e-4),
    paramwise_cfg=dict(
        custom_keys=dict(
            backbone=dict(lr_mult=1),
            neck=dict(lr_mult=1),
            rpn_head=dict(lr_mult=5),
            roi_head=dict(lr_mult=10))))
