# Owns: model. MMDetection's Mask R-CNN R50-FPN with two parts that give the same in less time and memory: masks of
# predictions as RLEs, and anchors and proposals assigned without the matrix of IoUs.
_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpn.py'

model = dict(
    roi_head=dict(mask_head=dict(type='mmext.FCNMaskHead')),
    train_cfg=dict(
        rpn=dict(assigner=dict(type='mmext.MaxIoUAssigner')),
        rcnn=dict(assigner=dict(type='mmext.MaxIoUAssigner'))))
