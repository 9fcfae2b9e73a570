# differential_10x for a network without RPN and RoI heads (SOLOv2): backbone and neck 1x, mask head 10x. The keys of
# differential_10x would match nothing there, which mmext.NamedParamGroupConstructor refuses.
_base_ = './uniform.py'

optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys=dict(
            backbone=dict(lr_mult=1),
            neck=dict(lr_mult=1),
            mask_head=dict(lr_mult=10))))
