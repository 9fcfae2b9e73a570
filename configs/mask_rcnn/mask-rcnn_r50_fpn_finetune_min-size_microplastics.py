# Changes: the RPN is not taught objects with a side under 20 pixels at the network's input, nor punished for finding them.
# Why:     specks that are annotated here and not there teach the RPN noise. What is annotated nowhere stays background.
# Cost:    such objects are no longer found; how many there are is said at the start, with a warning above 1 %.
# Source:  S1, example 2, by ground truth and anchor; S1's own filter goes by predicted boxes: rpn_head.filter_by='proposal'.
_base_ = './mask-rcnn_r50_fpn_finetune_microplastics.py'

model = dict(rpn_head=dict(type='mmext.MinSizeRPNHead', min_size=20))
