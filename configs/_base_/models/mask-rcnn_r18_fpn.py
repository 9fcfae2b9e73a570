# Owns: model. MMDetection's Mask R-CNN R50-FPN, small: ResNet-18 of 32 base channels, 64-channel FPN, 4 M parameters; same
# parts under the same names. Anchors of scale 4: the made objects are small. 500 proposals and 128 RoIs an image instead of
# 1000 and 512: a made image holds about ten objects, and an iteration takes 0.36 of the time.
_base_ = './mask-rcnn_r50_fpn_quick.py'

model = dict(
    backbone=dict(depth=18, base_channels=32, init_cfg=None),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, fc_out_channels=256),
        mask_roi_extractor=dict(out_channels=64),
        mask_head=dict(in_channels=64, conv_out_channels=64)),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=500),
        rcnn=dict(sampler=dict(num=128))))
