# The default: S1's rates by Adam, written by S0's ratios. Backbone and neck 1e-4, RPN 2x, RoI heads 10x; no weight decay.
# Adam's step does not follow the size of the gradient: its rate needs less of a search than SGD's, and for any batch it is
# this one (leave --auto-scale-lr away). S0's one option for both heads is in differential_10x.py.
_base_ = './uniform.py'

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='Adam', lr=1e-4, weight_decay=0.0),
    paramwise_cfg=dict(
        custom_keys=dict(
            backbone=dict(lr_mult=1),
            neck=dict(lr_mult=1),
            rpn_head=dict(lr_mult=2),
            roi_head=dict(lr_mult=10))))
