# Owns: param_scheduler, train_cfg, the clipping of gradients, and what they need of hooks. It inherits runtime.py, so a
# recipe lists a schedule that inherits this one, and not runtime.py.
# S3: clip 1.0; rates x0.1 when val_loss has not improved for more than 5 validations in a row, end after 10 of them, at most
# 50 epochs; the best checkpoint by mask AP50. Patience counts validations: with train_cfg.val_interval=2 it is 20 epochs.
_base_ = '../runtime.py'

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=50, val_interval=1)

optim_wrapper = dict(
    type='OptimWrapper',
    constructor='mmext.NamedParamGroupConstructor',
    clip_grad=dict(max_norm=1.0, norm_type=2))

# both multiply the rates as they are, so the ratio between parts stays; eps=0, as MMEngine leaves a rate alone that would
# change by less, and min_value stays 0: a floor, too, would undo the ratio
param_scheduler = [
    dict(type='mmext.WarmupShareLR', share=0.05, start_factor=0.001, by_epoch=False),
    dict(type='ReduceOnPlateauLR', monitor='val_loss', rule='less', factor=0.1, patience=5, eps=0.0),
]

default_hooks = dict(
    checkpoint=dict(save_best='coco/segm_mAP_50'),
    early_stopping=dict(type='EarlyStoppingHook', monitor='val_loss', patience=10, min_delta=0.0))
