# Owns: optim_wrapper, param_scheduler, train_cfg, auto_scale_lr.
# One rate for all parts: SGD 1e-3 at batch 2, momentum 0.9, weight decay 5e-4, clip 1.0, at most 50 epochs (S3).
# Warm-up and decay follow the length of the run: train_cfg.max_epochs alone moves both.
max_epochs = 50
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)

optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmext.NamedParamGroupConstructor',
    optimizer=dict(type='SGD', lr=1e-3, momentum=0.9, weight_decay=5e-4),
    paramwise_cfg=dict(custom_keys=dict()),
    clip_grad=dict(max_norm=1.0, norm_type=2))

param_scheduler = [
    dict(type='mmext.WarmupShareLR', share=0.05, start_factor=0.001, by_epoch=False),
    # a ratio, not eta_min: an absolute floor would shrink the heads' multiple to 1 at the end
    dict(type='CosineAnnealingLR', eta_min_ratio=0.01, by_epoch=True, convert_to_iter_based=True),
]

# for `mim train mmdet CONFIG --auto-scale-lr`: the rate above belongs to a batch of 2
auto_scale_lr = dict(enable=False, base_batch_size=2)
