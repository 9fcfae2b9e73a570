# Changes: the reference model, small: ResNet-18 of 32 base channels, 64-channel FPN, 256x256 images, batch 4.
# Why:     a training that two CPU cores finish in minutes; same parts, same names, same hooks as the full recipe.
# Cost:    about 0.5 s an iteration on two cores.
# Source:  S0's ratios at 2e-3, the linear rule for a batch of 4. Anchors of scale 4: the made objects are small.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    '../_base_/datasets/demo_instance.py',
    '../_base_/schedules/differential_10x.py',
    '../_base_/runtime.py',
]

model = dict(
    backbone=dict(depth=18, base_channels=32, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes={{_base_.num_classes}}),
        mask_roi_extractor=dict(out_channels=64),
        mask_head=dict(in_channels=64, conv_out_channels=64, num_classes={{_base_.num_classes}})))

optim_wrapper = dict(optimizer=dict(lr=2e-3))
auto_scale_lr = dict(base_batch_size=4)
