"""What validation losses, mask quality and stages cost: ``python benchmarks/training_engine.py [--rounds 8] [--out FILE]``.

The demo's network on made data, all sides in one process, in turns. Validation: mmext.LossValLoop, with and without
mmext.MaskQualityMetric, ÷ MMEngine's ValLoop, all with mmext.CocoMetric. Stages: an iteration that trains the heads ÷ one
that trains everything.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.runner import Runner
from rich.table import Table

import mmext
from mmext.console import console
from mmext.data.demo import write_part

WARM_UP = 2
LOOPS = {
    'losses and masks': {'type': 'mmext.LossValLoop'},
    'losses': {'type': 'mmext.LossValLoop', 'extra_metrics': []},
    'stock': {'type': 'ValLoop'},
}


def runner_of(folder: Path, name: str, changes: dict) -> Runner:
    cfg = Config.fromfile(mmext.recipe('mask-rcnn_r18_fpn_finetune_differential-10x'))
    cfg.merge_from_dict(
        {
            'train_dataloader.dataset.data_root': str(folder),
            'val_dataloader.dataset.data_root': str(folder),
            'val_evaluator.ann_file': str(folder / 'val' / 'annotations.json'),
            'train_cfg.max_epochs': 1,
            'work_dir': str(folder / name),
            'experiment_name': name,
            'log_level': 'ERROR',
            **changes,
        }
    )
    return Runner.from_cfg(cfg)


def validation_time(runner: Runner) -> float:
    start = time.perf_counter()
    runner.val_loop.run()
    return time.perf_counter() - start


def iteration_time(folder: Path, name: str, train: str) -> float:
    stages = {'type': 'mmext.StagedTrainingHook', 'stages': [{'train': train}]}
    off = {'val_cfg': None, 'val_dataloader': None, 'val_evaluator': None, 'model.backbone.frozen_stages': -1}
    runner = runner_of(folder, name, {'default_hooks.staged_training': stages, **off})
    runner.train()
    return float(statistics.median(runner.message_hub.log_scalars['train/time'].data[0][WARM_UP:]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=8)
    parser.add_argument('--out', type=Path, help='write the times as JSON')
    options = parser.parse_args()
    register_all_modules(init_default_scope=True)
    rounds = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, (part, images) in enumerate((('train', 32), ('val', 20))):
            list(write_part(folder / part, images, (0, number)))
        loops = {}
        for kind, val_cfg in LOOPS.items():
            loops[kind] = runner_of(folder, kind, {'val_cfg': {'_delete_': True, **val_cfg}})
            loops[kind].load_or_resume()
            validation_time(loops[kind])
        for number in range(options.rounds):
            row = {}
            for kind in sorted(loops, reverse=bool(number % 2)):
                row[kind] = validation_time(loops[kind])
            for train in sorted(('heads', 'all'), reverse=bool(number % 2)):
                row[train] = iteration_time(folder, f'{train}_{number}', train)
            rounds.append(row)
            print(f'round {number + 1} of {options.rounds}', flush=True)
    ratios = {
        'validation with losses and mask quality / stock': [row['losses and masks'] / row['stock'] for row in rounds],
        'validation with losses / stock': [row['losses'] / row['stock'] for row in rounds],
        'iteration of stage heads / all': [row['heads'] / row['all'] for row in rounds],
    }
    table = Table(title=f'{options.rounds} rounds', title_justify='left')
    for heading in ('ratio of times', 'median', 'lowest', 'highest'):
        table.add_column(heading)
    for what, values in ratios.items():
        table.add_row(what, *(f'{f(values):.2f}' for f in (statistics.median, min, max)))
    console().print(table)
    if options.out:
        options.out.write_text(json.dumps({'torch': torch.__version__, 'rounds': rounds}, indent=2) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
