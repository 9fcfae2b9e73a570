# Changes: heads, then layer 3 and up ("4+"), then everything at a tenth of the rate; one rate for all parts.
# Why:     the way in which Matterport's Mask R-CNN is fine-tuned, for comparison and for people who come from it.
# Cost:    iterations get longer from stage to stage, as more of the backbone is trained.
# Source:  Matterport's samples/coco/coco.py: 40, 80 and 40 epochs at 1e-3, 1e-3 and 1e-4; here 13, 25 and the rest of 50.
_base_ = './mask-rcnn_r50_fpn_finetune_uniform_microplastics.py'

# the stages freeze; what is frozen when the optimizer is built could not be thawed
model = dict(backbone=dict(frozen_stages=-1))
find_unused_parameters = True
# Matterport's rates are constant within a stage, and no stage ends early
param_scheduler = [dict(type='mmext.WarmupShareLR', share=0.05, start_factor=0.001, by_epoch=False)]
default_hooks = dict(
    early_stopping=dict(type='mmext.NoHook'),
    staged_training=dict(
        type='mmext.StagedTrainingHook',
        stages=[
            dict(epochs=13, train='heads'),
            dict(epochs=25, train='4+'),
            dict(train='all', lr_mult=0.1),
        ]))
