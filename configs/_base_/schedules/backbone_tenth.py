# S1: Adam 1e-3; the pretrained parts slowly. Backbone and neck 0.1x, RPN 0.2x, both RoI heads 1x; no weight decay, as there.
_base_ = './uniform.py'

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='Adam', lr=1e-3, weight_decay=0.0),
    paramwise_cfg=dict(
        custom_keys=dict(
            backbone=dict(lr_mult=0.1),
            neck=dict(lr_mult=0.1),
            rpn_head=dict(lr_mult=0.2),
            roi_head=dict(lr_mult=1))))
