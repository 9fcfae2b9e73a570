import copy
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

warnings.filterwarnings('ignore', message='pkg_resources is deprecated')
count = itertools.count()


def changed_copy(original, *path_and_value):
    """A copy of a document with one value set at a path of keys and places, or, for KeyError, taken out."""
    document = copy.deepcopy(original)
    *path, key, value = path_and_value
    place = document
    for step in path:
        place = place[step]
    if value is KeyError:
        del place[key]
    else:
        place[key] = value
    return document


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
    import random

    import numpy as np
    import torch
    from mmengine.config import Config
    from mmengine.evaluator import BaseMetric
    from mmengine.model import BaseModel
    from mmengine.runner import Runner

    class Tiny(BaseModel):
        def __init__(self, losses, mask_weight, scale, rename, norm):
            super().__init__()
            self.backbone = torch.nn.Linear(2, 4)
            self.neck = torch.nn.BatchNorm1d(4) if norm else torch.nn.Identity()
            self.mask_head = torch.nn.Linear(4, 1)
            self.losses, self.scale, self.rename = losses, scale, rename
            self.mask_head.loss_mask = torch.nn.Identity()
            self.mask_head.loss_mask.loss_weight = mask_weight

        def forward(self, inputs, mode='loss'):
            values = self.mask_head(self.neck(self.backbone(inputs * self.scale)))
            if mode == 'predict':
                return list(values)
            value = values.square().mean()
            losses = {
                'loss_mask': self.mask_head.loss_mask(self.mask_head.loss_mask.loss_weight * value),
                'loss_cls': (value - 1).square(),
            }
            return {self.rename.get(f'loss_{name}', f'loss_{name}'): losses[f'loss_{name}'] for name in self.losses}

    class Images(torch.utils.data.Dataset):
        """Points whose last digits are drawn from all three generators when ``noisy``."""

        def __init__(self, number, noisy):
            self.number, self.noisy = number, noisy

        def __len__(self):
            return self.number

        def __getitem__(self, i):
            noise = (random.random() + np.random.rand() + torch.rand(()).item()) * 0.01 if self.noisy else 0.0
            return {'inputs': torch.ones(2) * i / self.number + noise}

    class Size(BaseMetric):
        """Mean size of the predictions: falls as the model learns that all are zero."""

        def process(self, data_batch, data_samples):
            self.results += [float(value.abs()) for value in data_samples]

        def compute_metrics(self, results):
            return {'size': sum(results) / len(results)}

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
        norm=False,
        noisy=False,
        shuffle=False,
        sampler='DefaultSampler',
        workers=0,
        validate=False,
        batch_size=1,
        optimizer=None,
        paramwise_cfg=None,
        wrapper=None,
        folder='run',
        change=lambda model: model,
        start=True,
        **settings,
    ):
        torch.manual_seed(0)
        optimizer = optimizer or {'type': 'SGD', 'lr': lr, 'momentum': 0.9, 'weight_decay': 0.01}
        optim_wrapper = {'optimizer': optimizer, **(wrapper or {})}
        if constructor != 'stock':
            optim_wrapper['constructor'] = 'mmext.NamedParamGroupConstructor'
            optim_wrapper['paramwise_cfg'] = {'custom_keys': custom_keys or {}}
        elif paramwise_cfg is not None:
            optim_wrapper['paramwise_cfg'] = paramwise_cfg
        loader = {
            'dataset': Images(images, noisy),
            'sampler': {'type': sampler, 'shuffle': shuffle},
            'batch_size': batch_size,
            'num_workers': workers,
            'collate_fn': {'type': 'default_collate'},
        }
        if validate:
            still = {'dataset': Images(images, False), 'sampler': {'type': 'DefaultSampler', 'shuffle': False}}
            settings |= {'val_dataloader': loader | still, 'val_cfg': {}, 'val_evaluator': [Size()]}
        cfg = {'optim_wrapper': optim_wrapper, 'param_scheduler': settings.get('param_scheduler')}
        runner = Runner(
            model=change(Tiny(losses, mask_weight, scale, rename or {}, norm)),
            work_dir=str(tmp_path / folder),
            train_dataloader=loader,
            train_cfg=train_cfg or {'by_epoch': True, 'max_epochs': epochs},
            optim_wrapper=copy.deepcopy(optim_wrapper),
            default_hooks={'logger': {'type': 'LoggerHook', 'interval': 1}, **(default_hooks or {})},
            default_scope='mmdet',
            experiment_name=f'tiny{next(count)}',
            cfg=Config({key: value for key, value in cfg.items() if value}),
            **{'custom_hooks': None, **settings, 'param_scheduler': copy.deepcopy(settings.get('param_scheduler'))},
        )
        if not start:
            return runner
        log = Path(runner.log_dir, 'vis_data', 'scalars.json')
        before = len(log.read_text()) if log.exists() else 0  # another start within the same second has the same folder
        runner.train()
        text = log.read_text()[before:] if log.exists() else ''
        return runner, [json.loads(line) for line in text.splitlines()]

    return train


# Settings under cfg.model that make a step of any family take seconds; one that a family does not have is passed over, and
# in a list (a cascade's stages) all items are set.
SMALL_SAMPLING = {
    'train_cfg.rpn_proposal.nms_pre': 50,
    'train_cfg.rpn_proposal.max_per_img': 50,
    'train_cfg.rpn.sampler.num': 100_000,  # all anchors, so that every level of the FPN gets a gradient
    'train_cfg.rpn.allowed_border': -1,  # those over the edge too: in a small image all large ones are
    'train_cfg.rcnn.sampler.num': 16,
    'test_cfg.rpn.nms_pre': 50,
    'test_cfg.rpn.max_per_img': 50,
}


def set_where_it_is(cfg, path, value):
    """Set a dotted path in nested dicts, in every item of a list, where it is there already."""
    first, _, rest = path.partition('.')
    for item in cfg if isinstance(cfg, list) else [cfg]:
        if first in (item or {}):
            if rest:
                set_where_it_is(item[first], rest, value)
            else:
                item[first] = value


def small_sampling(cfg):
    """Fewer proposals and RoIs, so that a training step of a full model takes seconds."""
    for path, value in SMALL_SAMPLING.items():
        set_where_it_is(cfg.model, path, value)
    return cfg


@pytest.fixture(scope='session')
def shapes_run(tmp_path_factory) -> Path:
    """A work_dir whose checkpoint segments its data well: the shipped source model and made shapes."""
    from mmengine.config import Config

    from mmext.data.demo import KINDS, write_part
    from mmext.data.own_data import write_config

    folder = tmp_path_factory.mktemp('shapes')
    for number, part in enumerate(('train', 'val')):
        list(write_part(folder / part, 5, (0, number), KINDS['shapes']))
    parts = [(folder / part / 'annotations.json', folder / part) for part in ('train', 'val')]
    write_config(*parts, 'mask-rcnn_r18_fpn_finetune', folder / 'config.py')
    work_dir = folder / 'run'
    logs = work_dir / '20260101_000000' / 'vis_data'
    logs.mkdir(parents=True)
    Config.fromfile(folder / 'config.py').dump(logs / 'config.py')
    line = {'loss': 1.0, 'loss_mask': 0.2, 'loss_cls': 0.8, 'epoch': 1, 'step': 10}
    (logs / 'scalars.json').write_text(json.dumps(line) + '\n')
    source = Path(__file__).parents[1] / 'configs' / 'demo' / 'mask-rcnn_r18_fpn_source.pth'
    shutil.copy(source, work_dir / 'epoch_1.pth')
    return work_dir


@pytest.fixture
def planted(shapes_run, tmp_path):
    """A copy of that work_dir with a change of its config, and of each annotation of one part by a function of (mask)."""
    from mmdet.structures.mask import encode_mask_results
    from mmengine.config import Config
    from pycocotools import mask as coco_mask

    def plant(options=None, part='val', change=None, classes=None):
        run = tmp_path / 'run'
        shutil.copytree(shapes_run, run)
        file = next(run.glob('*/vis_data/config.py'))
        cfg = Config.fromfile(file)
        cfg.merge_from_dict(options or {})
        dataset = cfg[f'{part}_dataloader'].dataset
        annotations = Path(dataset.get('data_root') or '', dataset.ann_file)
        document = json.loads(annotations.read_text())
        sizes = {image['id']: (image['height'], image['width']) for image in document['images']}
        for one in document['annotations']:
            if change is not None:
                mask = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(one['segmentation'], *sizes[one['image_id']])))
                rle = encode_mask_results([change(mask)])[0]
                one['bbox'] = coco_mask.toBbox(rle).tolist()
                one['segmentation'] = {**rle, 'counts': rle['counts'].decode()}
            one['category_id'] = (classes or {}).get(one['category_id'], one['category_id'])
        dataset.ann_file = str(tmp_path / 'annotations.json')
        Path(dataset.ann_file).write_text(json.dumps(document))
        cfg.dump(file)
        return run

    return plant


@pytest.fixture(scope='session')
def shown_runs(demo_data, tmp_path_factory) -> Path:
    """A folder of four runs as their logs and predictions tell them.

    ``two <b>stages``: two stages, validations with losses, predictions of them; ``no validation``: still running;
    ``stock``: what MMDetection alone logs; ``broken``: its losses end in NaN, and its predictions are none.
    """
    import numpy as np
    from pycocotools import mask as coco_mask

    from mmext.analysis.predictions import FILES, file_hash, pack

    stamp, folder = '20260101_000000', tmp_path_factory.mktemp('shown runs')
    ann_file = demo_data / 'val' / 'annotations.json'
    document = json.loads(ann_file.read_text())
    families = ('mask', 'cls', 'bbox', 'rpn_cls', 'rpn_bbox')
    parts = {'backbone': 1, 'neck': 1, 'rpn_head': 5, 'bbox_head': 10, 'mask_head': 10}

    def train(step, ours=True, last=1e9):
        losses = {f'loss_{name}': (5 - i) / (5 + step) if step < last else float('nan') for i, name in enumerate(families)}
        rate = 0.001 / (1 + step / 50)
        rates = {'lr': rate, 'base_lr': rate}
        if ours:
            rates |= {f'{part}_lr': rate * times for part, times in parts.items()} | {'stage': 1 + (step > 60)}
        return {**rates, 'loss': sum(losses.values()), **losses, 'time': 0.5, 'epoch': (step + 19) // 20, 'step': step}

    def val(step, ours=True):
        metrics = {'coco/bbox_mAP': step / 400, 'coco/segm_mAP': step / 500, 'coco/segm_mAP_50': step / 200}
        if not ours:
            return {**metrics, 'step': step // 20}
        return {**metrics, 'mask/iou': 0.6, 'val_loss': 12 / step, 'val_loss_mask': 5 / step, 'step': step}

    def write(name, lines, epochs=5, running=False):
        logs = folder / name / stamp / 'vis_data'
        logs.mkdir(parents=True)
        (logs / 'scalars.json').write_text(''.join(json.dumps(line) + '\n' for line in lines))
        dataset = {'data_root': f'{demo_data}/', 'ann_file': 'val/annotations.json', 'data_prefix': {'img': 'val/'}}
        settings = {
            'model': {'roi_head': {'mask_head': {'loss_mask': {'type': 'CrossEntropyLoss'}}}},
            'val_dataloader': {'dataset': dataset},
            'train_cfg': {'max_epochs': epochs},
            'optim_wrapper': {'optimizer': {'lr': 0.001, 'type': '</script><i>' if running else 'SGD'}},
        }
        (logs / 'config.py').write_text(''.join(f'{key} = {value!r}\n' for key, value in settings.items()))
        if not running:
            for file in logs.iterdir():
                os.utime(file, (time.time() - 86_400,) * 2)
        return folder / name / stamp

    def keep(start, sure):
        """Predictions: of each image all objects but the first, which is found elsewhere, with scores from ``sure`` on."""
        images = []
        for image in document['images']:
            sizes = image['height'], image['width']
            own = [one for one in document['annotations'] if one['image_id'] == image['id']]
            rles = [coco_mask.merge(coco_mask.frPyObjects(one['segmentation'], *sizes)) for one in own]
            if own:
                rles[0] = coco_mask.encode(np.asfortranarray(np.roll(coco_mask.decode(rles[0]), 60, (0, 1))))
            boxes = coco_mask.toBbox(rles) if rles else np.zeros((0, 4))
            images.append(
                {
                    'image_id': image['id'],
                    'size': sizes,
                    'labels': [one['category_id'] - 1 for one in own],
                    'scores': [sure] * len(own),
                    'boxes': np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
                    'rles': rles,
                }
            )
        about = {'epoch': 5, 'iteration': 100, 'begin': 0, 'ann_file': str(ann_file), 'sha256': file_hash(ann_file)}
        classes = [category['name'] for category in document['categories']]
        (start / FILES['last']).write_bytes(pack(images, {**about, 'classes': classes, 'metrics': {}}))

    steps = range(5, 105, 5)
    keep(write('two <b>stages', [line for i in steps for line in [train(i), *([val(i)] if i % 20 == 0 else [])]]), 0.9)
    write('no validation', [train(i) for i in range(5, 55, 5)], running=True)
    stock = [line for i in steps for line in [train(i, False), *([val(i, False)] if i % 20 == 0 else [])]]
    write('stock', stock)
    keep(write('broken', [train(i, last=60) for i in range(5, 75, 5)]), 0.1)
    return folder
