# Owns: the optimizer, its rates, auto_scale_lr; schedule, length and hooks are plateau.py's.
# One rate for all parts: SGD 1e-3 at batch 2, momentum 0.9, weight decay 5e-4 (S3).
_base_ = './plateau.py'

optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=1e-3, momentum=0.9, weight_decay=5e-4),
    paramwise_cfg=dict(custom_keys=dict()))

# for `mim train mmdet CONFIG --auto-scale-lr`: the rate above belongs to a batch of 2
auto_scale_lr = dict(enable=False, base_batch_size=2)
