# Changes: the heads alone for 10 epochs (neck, RPN, both RoI heads), then everything, stem included; S1's rates.
# Why:     new last layers send large gradients into a pretrained backbone at first; here it does not move until they settle.
# Cost:    an iteration of the first stage takes less time than a full one: nothing is propagated through the backbone.
# Source:  S1 and Matterport's Mask R-CNN ("heads", then "all").
_base_ = './mask-rcnn_r50_fpn_finetune_backbone-tenth_microplastics.py'

# the stages freeze; what is frozen when the optimizer is built could not be thawed
model = dict(backbone=dict(frozen_stages=-1))
find_unused_parameters = True
default_hooks = dict(
    staged_training=dict(
        type='mmext.StagedTrainingHook',
        stages=[dict(epochs=10, train='heads'), dict(train='all')]))
