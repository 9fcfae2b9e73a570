"""The ``mmext`` scope. ``custom_imports = dict(imports=['mmext.registry'])`` makes every ``mmext.`` name known.

The parents are MMEngine's root registries, so a part is found from any ``default_scope``. ``locations`` are imported when
a name is first looked up; importing this module loads no torch.
"""

import sys

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import LOOPS as MMENGINE_LOOPS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import PARAM_SCHEDULERS as MMENGINE_PARAM_SCHEDULERS
from mmengine.registry import TASK_UTILS as MMENGINE_TASK_UTILS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

from mmext.safe_load import allow_mmengine_checkpoints


def _child(parent: Registry, *locations: str) -> Registry:
    return Registry(parent.name, parent=parent, scope='mmext', locations=list(locations))


DATASETS = _child(MMENGINE_DATASETS, 'mmext.datasets')
HOOKS = _child(MMENGINE_HOOKS, 'mmext.hooks')
LOOPS = _child(MMENGINE_LOOPS, 'mmext.loops')
METRICS = _child(MMENGINE_METRICS, 'mmext.metrics')
MODELS = _child(MMENGINE_MODELS, 'mmext.heads', 'mmext.losses')
OPTIM_WRAPPER_CONSTRUCTORS = _child(MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS, 'mmext.optim')
PARAM_SCHEDULERS = _child(MMENGINE_PARAM_SCHEDULERS, 'mmext.optim')
TASK_UTILS = _child(MMENGINE_TASK_UTILS, 'mmext.assigners')
TRANSFORMS = _child(MMENGINE_TRANSFORMS, 'mmext.transforms')

# mmdet's scripts that run no hooks (image_demo, get_flops) load checkpoints too; all they do of ours is to import this
# module through ``custom_imports``. They have imported torch by then; who has not gets the list from mmext.ResumeHook.
if 'torch' in sys.modules:
    allow_mmengine_checkpoints()
