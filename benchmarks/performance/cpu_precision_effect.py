"""What bf16 with channels_last does to the result: the demo's recipe on made data, fp32 against bf16, same seeds.

``python benchmarks/performance/cpu_precision_effect.py [--seeds 0 1 2] [--iterations 200] [--out FILE]``

Pairs of trainings that differ in the precision alone. Prints the mean loss of the last 50 iterations and box and mask AP of
both, their differences, and the seeds' own spread beside them. What the file holds is not run again.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.table import Table

import mmext
from mmext.console import console
from mmext.data.demo import write_part
from mmext.hooks import CPUPrecisionHook

PRECISIONS = {'fp32': None, 'bf16': 'bf16'}
PARTS = {'train': 60, 'val': 40}
LAST = 50
METRICS = ('coco/bbox_mAP', 'coco/segm_mAP')


class KeepLosses(Hook):
    """The total loss of each iteration."""

    def __init__(self):
        self.losses: list[float] = []

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self.losses.append(float(outputs['loss']))


def config_of(data: Path, seed: int, iterations: int, work_dir: Path) -> Config:
    cfg = Config.fromfile(mmext.recipe('mask-rcnn_r18_fpn_finetune_differential-10x'))
    an_epoch = PARTS['train'] // cfg.train_dataloader.batch_size
    epochs = -(-iterations // an_epoch)
    cfg.merge_from_dict(
        {
            'train_dataloader.dataset.data_root': str(data),
            'val_dataloader.dataset.data_root': str(data),
            'val_evaluator.ann_file': str(data / 'val' / 'annotations.json'),
            'test_dataloader.dataset.data_root': str(data),
            'test_evaluator.ann_file': str(data / 'val' / 'annotations.json'),
            'train_cfg.max_epochs': epochs,
            'train_cfg.val_interval': epochs,
            'val_cfg': {'_delete_': True, 'type': 'ValLoop'},
            'randomness.seed': seed,
            'work_dir': str(work_dir),
            'experiment_name': work_dir.name,
            'log_level': 'ERROR',
        }
    )
    return cfg


def train(cfg: Config, precision: str | None) -> dict:
    """Losses of a training and its AP, which is measured in the precision of the training."""
    runner = Runner.from_cfg(cfg)
    keep = KeepLosses()
    runner.register_hook(keep)
    if precision is not None:
        runner.register_hook(CPUPrecisionHook(precision))
    runner.train()
    ap = {metric: float(runner.message_hub.get_scalar(f'val/{metric}').current()) for metric in METRICS}
    return {'losses': keep.losses, **ap}


def numbers_of(run: dict) -> dict[str, float]:
    return {f'loss, last {LAST}': statistics.fmean(run['losses'][-LAST:]), **{metric: run[metric] for metric in METRICS}}


def table_of(runs: dict[str, dict], seeds: Sequence[int]) -> Table:
    """Both precisions, their paired differences, and the standard deviation over seeds of fp32."""
    table = Table(title=f'seeds {", ".join(map(str, seeds))}', title_justify='left')
    for heading in ('number', 'fp32', 'bf16', 'bf16 - fp32, each seed', 'mean', "sd of fp32's seeds"):
        table.add_column(heading)
    found = {name: [numbers_of(runs[f'{name} {seed}']) for seed in seeds] for name in PRECISIONS}
    for number in found['fp32'][0]:
        one, other = ([values[number] for values in found[name]] for name in PRECISIONS)
        differences = [b - a for a, b in zip(one, other, strict=True)]
        spread = f'{statistics.stdev(one):.4f}' if len(one) > 1 else ''
        table.add_row(
            number,
            f'{statistics.fmean(one):.4f}',
            f'{statistics.fmean(other):.4f}',
            ', '.join(f'{value:+.4f}' for value in differences),
            f'{statistics.fmean(differences):+.4f}',
            spread,
        )
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--iterations', type=int, default=200)
    parser.add_argument('--out', type=Path, default=Path(__file__).with_name('cpu_precision_effect.json'))
    given = parser.parse_args()
    warnings.simplefilter('ignore')
    register_all_modules(init_default_scope=True)
    record = json.loads(given.out.read_text()) if given.out.is_file() else {'iterations': given.iterations, 'runs': {}}
    if record['iterations'] != given.iterations:
        raise SystemExit(f'{given.out} has runs of {record["iterations"]} iterations; give another --out.')
    record['torch'] = torch.__version__
    with tempfile.TemporaryDirectory() as name:
        data = Path(name)
        for number, (part, images) in enumerate(PARTS.items()):
            list(write_part(data / part, images, (0, number)))
        for seed, (kind, precision) in itertools.product(given.seeds, PRECISIONS.items()):
            run = f'{kind} {seed}'
            if run not in record['runs']:
                cfg = config_of(data, seed, given.iterations, data / run)
                record['runs'][run] = train(cfg, precision)
                given.out.write_text(json.dumps(record) + '\n')
                print(f'{run}: {numbers_of(record["runs"][run])}', flush=True)
    console().print(table_of(record['runs'], given.seeds))
    return 0


if __name__ == '__main__':
    sys.exit(main())
