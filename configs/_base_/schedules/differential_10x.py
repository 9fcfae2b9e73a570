# S3's SGD 1e-3 with S0's ratios. Backbone and neck 1x, RPN 5x, both RoI heads 10x.
# S0's one option for both heads is one line: optim_wrapper.paramwise_cfg.custom_keys.roi_head.lr_mult=15; a longer key,
# ...custom_keys.mask_head.lr_mult=3, refines it. Back to one rate for all: the uniform recipe.
_base_ = './uniform.py'

optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys=dict(
            backbone=dict(lr_mult=1),
            neck=dict(lr_mult=1),
            rpn_head=dict(lr_mult=5),
            roi_head=dict(lr_mult=10))))
