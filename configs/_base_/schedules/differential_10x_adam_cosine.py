# The rates of differential_10x_adam with a cosine over a fixed number of epochs, for runs too short for a plateau.
# Warm-up and decay follow the length of the run: train_cfg.max_epochs alone moves both.
_base_ = './differential_10x_adam.py'

param_scheduler = [
    dict(type='mmext.WarmupShareLR', share=0.05, start_factor=0.001, by_epoch=False),
    # a ratio, not eta_min: an absolute floor would shrink the heads' multiple to 1 at the end
    dict(type='CosineAnnealingLR', eta_min_ratio=0.01, by_epoch=True, convert_to_iter_based=True),
]

default_hooks = dict(early_stopping=dict(type='mmext.NoHook'))
