# Owns: optim_wrapper, param_scheduler, train_cfg, auto_scale_lr.
# MMDetection's schedule_1x for a batch of 16, with named groups: SGD 0.02, 500 iterations of warm-up, x0.1 after epochs 8
# and 11 of 12. Fixed in epochs, as published: the one schedule here that does not follow train_cfg.max_epochs.
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=1)

optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmext.NamedParamGroupConstructor',
    optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=0.0001),
    paramwise_cfg=dict(custom_keys=dict()))

param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1),
]

auto_scale_lr = dict(enable=False, base_batch_size=16)
