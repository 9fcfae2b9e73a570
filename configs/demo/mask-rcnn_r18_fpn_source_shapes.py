# Changes: the demo's model trained from scratch on Disk, Rod, Star, Crescent; nothing frozen, batch statistics learnt.
# Why:     no pretrained weights can be had offline; this is the network that the demo fine-tunes, as COCO's is for R50.
# Cost:    1200 iterations of 4 images of 256x256, about 12 minutes on two cores.
# Source:  made data, mmext demo-data data/shapes --kind shapes --images 600 --val-images 100 --seed 100. See docs/demo.md.
_base_ = [
    '../_base_/models/mask-rcnn_r18_fpn.py',
    '../_base_/datasets/shapes_instance.py',
    '../_base_/schedules/differential_10x_cosine.py',
]

model = dict(
    backbone=dict(frozen_stages=-1, norm_eval=False),
    roi_head=dict(
        bbox_head=dict(num_classes={{_base_.num_classes}}),
        mask_head=dict(num_classes={{_base_.num_classes}})))

train_cfg = dict(max_epochs=8, val_interval=4)
optim_wrapper = dict(optimizer=dict(lr=5e-3))
auto_scale_lr = dict(base_batch_size=4)
randomness = dict(seed=0)
