# Changes: the shipped source model (made shapes) fine-tuned to made particles with the default's rates, 120 iterations.
# Why:     a fine-tuning that two CPU cores finish in minutes; same parts, same names, same hooks as the full recipe.
# Cost:    about 0.5 s an iteration on two cores.
# Source:  S1's rates; what they reach, with their spread and beside others: docs/experiment.md (there backbone-tenth).
_base_ = [
    '../_base_/models/mask-rcnn_r18_fpn.py',
    '../_base_/datasets/demo_instance.py',
    '../_base_/schedules/differential_10x_adam_cosine.py',
]

model = dict(
    roi_head=dict(
        bbox_head=dict(num_classes={{_base_.num_classes}}),
        mask_head=dict(num_classes={{_base_.num_classes}})))

train_cfg = dict(max_epochs=8, val_interval=8)
# three log lines in an epoch of 15 iterations; with one alone MMDetection's analyze_logs puts it into the wrong epoch
default_hooks = dict(logger=dict(interval=5))
auto_scale_lr = dict(base_batch_size=4)
randomness = dict(seed=0)
load_from = '{{fileDirname}}/mask-rcnn_r18_fpn_source.pth'
