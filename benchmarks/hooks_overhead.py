"""Iteration time with and without all hooks of ours: ``python benchmarks/hooks_overhead.py [--rounds 10]``.

Both sides train the demo's recipe on made data in one process, an epoch each, in turns; the order changes every round.
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
from mmext.hooks import LossGuardHook

WARM_UP = 3  # iterations left out at the beginning of an epoch
STOCK = {
    'timer': {'type': 'IterTimerHook'},
    'logger': {'type': 'LoggerHook', 'interval': 5},
    'param_scheduler': {'type': 'ParamSchedulerHook'},
    'checkpoint': {'type': 'CheckpointHook', 'interval': 1, 'max_keep_ckpts': 2},
    'sampler_seed': {'type': 'DistSamplerSeedHook'},
}


def timed(method, spent: list[float]):
    def call(*args, **kwargs):
        start = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            spent[0] += time.perf_counter() - start

    return call


def train(folder: Path, images: int, ours: bool, number: int) -> dict:
    """One epoch; times in seconds: median iteration, time in hooks of ours per iteration, and the end of the epoch."""
    cfg = Config.fromfile(mmext.recipe('mask-rcnn_r18_fpn_finetune'))
    cfg.merge_from_dict(
        {
            'train_dataloader.dataset.data_root': str(folder),
            'train_cfg.max_epochs': 1,
            'work_dir': str(folder / f'run_{number}_{ours}'),
            'experiment_name': f'{number}_{ours}',
            'log_level': 'ERROR',
            'val_cfg': None,
            'val_dataloader': None,
            'val_evaluator': None,
        }
    )
    if not ours:
        cfg.default_hooks = STOCK
    runner = Runner.from_cfg(cfg)
    spent, inside = [0.0], []
    for hook in runner.hooks:
        if type(hook).__module__.startswith('mmext.'):
            for name in ('before_train_iter', 'after_train_iter'):
                setattr(hook, name, timed(getattr(hook, name), spent))
            if isinstance(hook, LossGuardHook):
                hook._look, hook._keep_losses = timed(hook._look, spent), timed(hook._keep_losses, spent)
    marks = {}
    loop = runner.train_loop
    step = loop.run_iter

    def run_iter(*args):
        spent[0] = 0.0
        step(*args)
        inside.append(spent[0])
        marks['last'] = time.perf_counter()

    loop.run_iter = run_iter
    runner.train()
    end = time.perf_counter() - marks['last']
    iterations = runner.message_hub.log_scalars['train/time'].data[0][WARM_UP:]
    return {
        'iteration': float(statistics.median(iterations)),
        'hooks': statistics.median(inside[WARM_UP:]),
        'end': end,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=10)
    parser.add_argument('--images', type=int, default=60, help='training images, batch 4 (default 60)')
    parser.add_argument('--out', type=Path, help='write the times as JSON')
    options = parser.parse_args()
    register_all_modules(init_default_scope=True)
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        list(write_part(folder / 'train', options.images, (0, 0)))
        for number in range(options.rounds):
            sides = [True, False] if number % 2 else [False, True]
            row = {}
            for ours in sides:
                row['ours' if ours else 'stock'] = train(folder, options.images, ours, number)
            rows.append(row)
            print(
                f'round {number + 1} of {options.rounds}: {row["ours"]["iteration"] / row["stock"]["iteration"]:.3f}',
                flush=True,
            )
    ratios = [row['ours']['iteration'] / row['stock']['iteration'] for row in rows]
    shares = [row['ours']['hooks'] / row['ours']['iteration'] for row in rows]
    ends = [row['ours']['end'] - row['stock']['end'] for row in rows]
    table = Table(title=f"All hooks against MMEngine's own, {options.rounds} rounds", title_justify='left')
    for heading in ('what', 'median', 'lowest', 'highest'):
        table.add_column(heading)
    table.add_row('time of an iteration, ours / stock', *(f'{f(ratios):.3f}' for f in (statistics.median, min, max)))
    table.add_row('time inside hooks of ours / iteration', *(f'{f(shares):.2%}' for f in (statistics.median, min, max)))
    table.add_row('end of an epoch (checkpoint), ours - stock', *(f'{f(ends):.2f} s' for f in (statistics.median, min, max)))
    console().print(table)
    if options.out:
        options.out.write_text(json.dumps({'torch': torch.__version__, 'rounds': rows}, indent=2) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
