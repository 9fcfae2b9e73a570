from mmext.hooks.checkpoint import SafeCheckpointHook
from mmext.hooks.class_check import ClassCheckHook
from mmext.hooks.group_lr import GroupLRHook
from mmext.hooks.loss_guard import LossGuardHook
from mmext.hooks.loss_share import LossShareHook
from mmext.hooks.resume import ResumeHook

__all__ = ['ClassCheckHook', 'GroupLRHook', 'LossGuardHook', 'LossShareHook', 'ResumeHook', 'SafeCheckpointHook']
