# Owns: model. MMDetection's Mask R-CNN R50-FPN for weights that come from Caffe2, as in its
# mask_rcnn/mask-rcnn_r50-caffe_fpn_1x_coco.py: blue first, no division by a deviation, the stride of a bottleneck in its
# first convolution, batch norm that does not learn. Such weights fit the other model in shape and would see wrong input.
_base_ = './mask-rcnn_r50_fpn_quick.py'

model = dict(
    data_preprocessor=dict(
        mean=[103.530, 116.280, 123.675],
        std=[1.0, 1.0, 1.0],
        bgr_to_rgb=False),
    backbone=dict(
        norm_cfg=dict(requires_grad=False),
        style='caffe',
        init_cfg=dict(checkpoint='open-mmlab://detectron2/resnet50_caffe')))
