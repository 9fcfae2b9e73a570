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


QUICK = ['train_cfg.max_epochs=1', 'train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False']
QUICK += ['val_dataloader.num_workers=0', 'val_dataloader.persistent_workers=False', 'default_hooks.logger.interval=1']


@pytest.fixture(scope='session')
def run_folder(demo_config, tmp_path_factory):
    """One epoch on two iterations of made data, started in an empty folder; the work_dir is elsewhere."""
    key = 'optim_wrapper.paramwise_cfg.custom_keys'
    here, there = tmp_path_factory.mktemp('start here'), tmp_path_factory.mktemp('work dir')
    command = [Path(sys.executable).parent / 'mim', 'train', 'mmdet', demo_config, '--work-dir', there]
    command += ['--cfg-options', f'{key}.roi_head.lr_mult=15', f'{key}.mask_head.lr_mult=3', *QUICK]
    done = subprocess.run(command, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    (there / 'console.txt').write_text(done.stdout)
    assert list(here.iterdir()) == []  # nothing is left where it was started
    return there


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
        def __init__(self, losses, mask_weight, scale, rename):
            super().__init__()
            self.backbone = torch.nn.Linear(2, 4)
            self.mask_head = torch.nn.Linear(4, 1)
            self.losses, self.scale, self.rename = losses, scale, rename
            self.mask_head.loss_mask = torch.nn.Identity()
            self.mask_head.loss_mask.loss_weight = mask_weight

        def forward(self, inputs, mode='loss'):
            inputs = inputs * self.scale
            value = self.mask_head(self.backbone(inputs)).square().mean()
            losses = {'loss_mask': self.mask_head.loss_mask.loss_weight * value, 'loss_cls': (value - 1).square()}
            return {self.rename.get(f'loss_{name}', f'loss_{name}'): losses[f'loss_{name}'] for name in self.losses}

    def train(
        custom_keys=None,
        default_hooks=None,
        epochs=2,
        images=6,
        lr=0.02,
        constructor=None,
        losses=('mask',),
        mask_weight=1.0,
        scale=1.0,
        rename=None,
        train_cfg=None,
        **settings,
    ):
        torch.manual_seed(0)
        optim_wrapper = {'optimizer': {'type': 'SGD', 'lr': lr, 'momentum': 0.9, 'weight_decay': 0.01}}
        if constructor != 'stock':
            optim_wrapper['constructor'] = 'mmext.NamedParamGroupConstructor'
            optim_wrapper['paramwise_cfg'] = {'custom_keys': custom_keys or {}}
        runner = Runner(
            model=Tiny(losses, mask_weight, scale, rename or {}),
            work_dir=str(tmp_path / 'run'),
            train_dataloader={
                'dataset': [{'inputs': torch.ones(2) * i / images} for i in range(images)],
                'sampler': {'type': 'DefaultSampler', 'shuffle': False},
                'batch_size': 1,
                'collate_fn': {'type': 'default_collate'},
            },
            train_cfg=train_cfg or {'by_epoch': True, 'max_epochs': epochs},
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
    cfg.model.train_cfg.rpn.sampler.num = 100_000  # all anchors, so that every level of the FPN gets a gradient
    cfg.model.test_cfg.rpn.update(nms_pre=50, max_per_img=50)
    return cfg
