import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

warnings.filterwarnings('ignore', message='pkg_resources is deprecated')


@pytest.fixture(scope='session')
def demo_data(tmp_path_factory) -> Path:
    """Made data: 8 training and 4 validation images."""
    from mmext.data.demo import write_part

    folder = tmp_path_factory.mktemp('demo data')  # with a space, as a person's folder may have one
    for number, (part, images) in enumerate((('train', 8), ('val', 4))):
        list(write_part(folder / part, images, (0, number)))
    return folder


@pytest.fixture(scope='session')
def demo_config(demo_data) -> Path:
    """What `mmext init` writes for the made data, with the small model."""
    from mmext.data.own_data import write_config

    parts = [(demo_data / part / 'annotations.json', demo_data / part) for part in ('train', 'val')]
    write_config(*parts, 'mask-rcnn_r18_fpn_finetune', demo_data / 'config.py')
    return demo_data / 'config.py'


@pytest.fixture
def run_command(tmp_path):
    """Run a command of the environment in an empty folder; returns the finished process with its output."""

    def run(command: str, *arguments, status: int | None = 0, cwd: Path = tmp_path) -> subprocess.CompletedProcess:
        program = Path(sys.executable).parent / command
        done = subprocess.run(
            [program, *map(str, arguments)], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert status is None or done.returncode == status, done.stdout
        return done

    return run


@pytest.fixture
def train_tiny(tmp_path):
    """Train a model of two layers with the real Runner; returns the Runner and the lines of its JSON log."""
    import torch
    from mmengine.model import BaseModel
    from mmengine.runner import Runner

    class Tiny(BaseModel):
        def __init__(self):
            super().__init__()
            self.backbone = torch.nn.Linear(2, 4)
            self.mask_head = torch.nn.Linear(4, 1)

        def forward(self, inputs, mode='loss'):
            return {'loss_mask': self.mask_head(self.backbone(inputs)).square().mean()}

    def train(custom_keys=None, default_hooks=None, epochs=2, images=6, lr=0.02, constructor=None, **settings):
        optim_wrapper = {'optimizer': {'type': 'SGD', 'lr': lr, 'momentum': 0.9, 'weight_decay': 0.01}}
        if constructor != 'stock':
            optim_wrapper['constructor'] = 'mmext.NamedParamGroupConstructor'
            optim_wrapper['paramwise_cfg'] = {'custom_keys': custom_keys or {}}
        runner = Runner(
            model=Tiny(),
            work_dir=str(tmp_path / 'run'),
            train_dataloader={
                'dataset': [{'inputs': torch.ones(2) * i} for i in range(images)],
                'sampler': {'type': 'DefaultSampler', 'shuffle': False},
                'batch_size': 1,
                'collate_fn': {'type': 'default_collate'},
            },
            train_cfg={'by_epoch': True, 'max_epochs': epochs},
            optim_wrapper=optim_wrapper,
            default_hooks={'logger': {'type': 'LoggerHook', 'interval': 1}, **(default_hooks or {})},
            default_scope='mmdet',
            custom_hooks=None,
            experiment_name=f'tiny{len(list(tmp_path.iterdir()))}-{id(settings)}',
            **settings,
        )
        runner.train()
        text = Path(runner.log_dir, 'vis_data', 'scalars.json').read_text()
        return runner, [json.loads(line) for line in text.splitlines()]

    return train


def small_sampling(cfg):
    """Fewer proposals and RoIs, so that a training step of a full model takes seconds."""
    cfg.model.train_cfg.rpn_proposal.update(nms_pre=50, max_per_img=50)
    cfg.model.train_cfg.rcnn.sampler.num = 16
    cfg.model.train_cfg.rpn.sampler.num = 32
    cfg.model.test_cfg.rpn.update(nms_pre=50, max_per_img=50)
    return cfg
