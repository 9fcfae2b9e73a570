# Owns: default_scope, custom_imports, default_hooks, visualizer, log_processor, env_cfg, val_cfg, test_cfg, log_level,
# load_from, resume. Hooks have names in default_hooks, so that a child config changes one without repeating the others.
default_scope = 'mmdet'
custom_imports = dict(imports=['mmext.registry'], allow_failed_imports=False)

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    # validation is written at its iteration: val_loss and the training loss share an axis
    logger=dict(type='LoggerHook', interval=10, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='mmext.SafeCheckpointHook', interval=1, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='DetVisualizationHook'),
    resume=dict(type='mmext.ResumeHook'),
    class_check=dict(type='mmext.ClassCheckHook'),
    class_rows=dict(type='mmext.ClassRowsHook'),
    small_objects=dict(type='mmext.SmallObjectsHook'),
    group_lr=dict(type='mmext.GroupLRHook'),
    loss_share=dict(type='mmext.LossShareHook'),
    loss_guard=dict(type='mmext.LossGuardHook'),
    predictions=dict(type='mmext.PredictionsHook'),
    tensorboard=dict(type='mmext.TensorboardHook'),
    run_end=dict(type='mmext.RunEndHook'),
    diagnosis=dict(type='mmext.DiagnosisHook'))

vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
visualizer = dict(type='DetLocalVisualizer', vis_backends=vis_backends, name='visualizer')
# MMEngine averages every name with 'loss' in it over the window; a validation loss is one number for each validation
log_processor = dict(
    type='LogProcessor',
    window_size=10,
    by_epoch=True,
    mean_pattern=r'^(?!val_loss|val/val_loss).*(loss|time|data_time|grad_norm).*')
log_level = 'INFO'

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'))

val_cfg = dict(type='mmext.LossValLoop')
test_cfg = dict(type='TestLoop')

load_from = None
resume = False
