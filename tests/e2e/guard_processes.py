"""Started by torchrun: one process of two has losses that are no numbers; each writes what became of its training."""

import math
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner

import mmext.registry  # noqa: F401
from mmext.hooks.loss_guard import TrainingStoppedError

sys.path.append(str(Path(__file__).parent.parent))
import scaled_on_cpu  # noqa: F401

ITERATIONS = range(3, 40)


class Tiny(BaseModel):
    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Linear(2, 1)
        self.loss = torch.nn.Identity()

    def forward(self, inputs, mode='loss'):
        return {'loss_mask': self.loss(self.backbone(inputs).square().mean())}


class Spoil(Hook):
    def before_train(self, runner):
        def spoil(module, args, output):
            return output * math.nan if dist.get_rank() == 0 and runner.iter + 1 in ITERATIONS else output

        runner.model.module.loss.register_forward_hook(spoil)


wrapper, work_dir = sys.argv[1:]
dist.init_process_group('gloo')
runner = Runner(
    model=Tiny(),
    work_dir=work_dir,
    train_dataloader={
        'dataset': [{'inputs': torch.ones(2) * i / 24} for i in range(24)],
        'sampler': {'type': 'DefaultSampler', 'shuffle': False},
        'batch_size': 1,
        'collate_fn': {'type': 'default_collate'},
    },
    train_cfg={'by_epoch': True, 'max_epochs': 1},
    optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 0.01}, **eval(wrapper)},
    default_hooks={'loss_guard': {'type': 'mmext.LossGuardHook', 'policy': 'skip', 'max_in_a_row': 2}},
    custom_hooks=[Spoil()],
    launcher='pytorch',
    cfg=Config({'model_wrapper_cfg': {'type': 'MMDistributedDataParallel', 'device_ids': None}}),
    default_scope='mmengine',
    experiment_name='guard',
)
try:
    runner.train()
    outcome = 'finished'
except TrainingStoppedError as error:
    outcome = str(error)
Path(work_dir, f'rank{dist.get_rank()}.txt').write_text(outcome)
dist.barrier()
dist.destroy_process_group()
