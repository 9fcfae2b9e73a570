from mmext.hooks.checkpoint import SafeCheckpointHook
from mmext.hooks.class_check import ClassCheckHook
from mmext.hooks.class_rows import ClassRowsHook
from mmext.hooks.cpu_precision import CPUPrecisionHook
from mmext.hooks.diagnosis import DiagnosisHook
from mmext.hooks.group_lr import GroupLRHook
from mmext.hooks.loss_guard import LossGuardHook
from mmext.hooks.loss_share import LossShareHook
from mmext.hooks.no_hook import NoHook
from mmext.hooks.predictions import PredictionsHook
from mmext.hooks.resume import ResumeHook
from mmext.hooks.run_end import RunEndHook
from mmext.hooks.small_objects import SmallObjectsHook
from mmext.hooks.staged_training import StagedTrainingHook
from mmext.hooks.tensorboard import TensorboardHook

__all__ = [
    'CPUPrecisionHook',
    'ClassCheckHook',
    'ClassRowsHook',
    'DiagnosisHook',
    'GroupLRHook',
    'LossGuardHook',
    'LossShareHook',
    'NoHook',
    'PredictionsHook',
    'ResumeHook',
    'RunEndHook',
    'SafeCheckpointHook',
    'SmallObjectsHook',
    'StagedTrainingHook',
    'TensorboardHook',
]
