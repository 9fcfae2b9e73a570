"""An optimizer wrapper with AMP's loss scaler on the CPU, where MMEngine's AmpOptimWrapper refuses to work."""

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class ScaledOnCpu(OptimWrapper):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.scaler = torch.amp.GradScaler('cpu', init_scale=2.0)

    def backward(self, loss, **kwargs):
        self.scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs):
        self.scaler.step(self.optimizer)
        self.scaler.update()
