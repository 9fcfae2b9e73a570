# Changes: SGD with one rate, 2e-3, for all parts, instead of Adam.
# Why:     S0's account of small masks: a rate that suits the pretrained parts is too low for the new ones.
# Cost:    none.
# Source:  S0; what it reaches, with its spread: docs/demo.md.
_base_ = './mask-rcnn_r18_fpn_finetune_differential-10x_demo.py'

optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(_delete_=True)))
