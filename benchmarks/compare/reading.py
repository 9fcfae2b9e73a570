"""Times of `mmext compare`, the whole command, on made logs: ``python benchmarks/compare/reading.py [--runs 100]``.

Lines are as mmext logs them, 0.8 kB each; a run has 50 validations. Every case is timed when none of its runs was seen
before, and again with what was kept beside the logs. Seconds are of the processor and of the clock: on a machine that does
other things too, the first tell more. The files are in the page cache, so that reading a disk is not in it.
"""

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from mmext.analysis.digest import CACHE
from mmext.console import console

STAMP = '20260101_000000'
VALIDATIONS = 50
FAMILIES = {'mask': 0.2, 'cls': 0.25, 'bbox': 0.5, 'rpn_cls': 0.06, 'rpn_bbox': 0.03}
PARTS = ('backbone', 'neck', 'rpn_head', 'bbox_head', 'mask_head')
AREAS = ('', '_50', '_75', '_s', '_m', '_l')
CONFIG = Path(__file__).parents[2] / 'configs/mask_rcnn/mask-rcnn_r50_fpn_finetune_microplastics.py'
SMALL = 500  # log lines of a training on a hundred images


def made_lines(number: int, seed: int) -> Iterator[dict]:
    """A log of ``number`` training lines, ten iterations apart, whose losses fall, and its validations."""
    rng = random.Random(seed)
    for i in range(1, number + 1):
        level = 1 + 3 * math.exp(-8 * i / number)
        losses = {f'loss_{name}': level * end * rng.uniform(0.9, 1.1) for name, end in FAMILIES.items()}
        total = sum(losses.values())
        line = {'base_lr': 1e-3, 'lr': 1e-3, 'data_time': rng.uniform(0.01, 0.02)}
        line |= {f'{part}_lr': rng.uniform(1e-3, 2e-3) for part in PARTS}
        line |= {'grad_norm': rng.uniform(2, 4), 'loss': total, **losses, 'acc': rng.uniform(80, 99)}
        line |= {'time': rng.uniform(0.4, 0.6), 'memory': 5000 + i // 100}
        line |= {name.replace('loss', 'share'): loss / total for name, loss in losses.items()}
        yield line | {'epoch': 1 + (i - 1) * VALIDATIONS // number, 'iter': 10 * i, 'step': 10 * i}
        if i * VALIDATIONS // number > (i - 1) * VALIDATIONS // number:
            best = 0.4 * (1 - math.exp(-4 * i / number))
            found = {f'coco/{kind}_mAP{area}': best * rng.uniform(0.9, 1.1) for kind in ('bbox', 'segm') for area in AREAS}
            found |= {f'mask/{name}': rng.uniform(0.6, 0.8) for name in ('iou', 'coverage', 'area_ratio', 'boundary_iou')}
            yield found | {'val_loss': total * 1.1, 'time': 0.1, 'step': 10 * i}


def make_runs(folder: Path, runs: int, lines: int) -> int:
    """``runs`` work_dirs with a log of ``lines`` lines each, all the same but for their seed; returns bytes of a log."""
    from mmengine.config import Config

    config = Config.fromfile(CONFIG)
    logs = [folder / f'run{i:03d}' / STAMP / 'vis_data/scalars.json' for i in range(runs)]
    for i, log in enumerate(logs):
        log.parent.mkdir(parents=True)
        config.randomness = {'seed': i}
        config.train_cfg.max_epochs = VALIDATIONS
        config.dump(log.with_name('config.py'))
        if i == 0:
            with log.open('w') as file:
                file.writelines(json.dumps(line) + '\n' for line in made_lines(lines, i))
        else:
            shutil.copyfile(logs[0], log)
    return logs[0].stat().st_size


def timed(folder: Path) -> dict[str, float]:
    """The command on a folder: seconds of the clock and of the processor, and peak memory in MB."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, '-m', 'mmext.cli', 'compare', str(folder)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f'mmext compare {folder} failed with status {status}')
    return {
        'clock_s': round(time.perf_counter() - start, 2),
        'processor_s': round(usage.ru_utime + usage.ru_stime, 2),
        'memory_mb': round(usage.ru_maxrss / 1024),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--runs', type=int, default=100)
    parser.add_argument('--lines', type=int, default=50_000)
    parser.add_argument('--repeats', type=int, default=3, help='of the second look; the fastest counts')
    arguments = parser.parse_args()
    answer = {'cases': {}, 'load_before': [round(one, 1) for one in os.getloadavg()]}
    table = Table(title='mmext compare, the whole command', title_justify='left')
    for heading in ('runs × lines', 'log', 'first time', 'seen before', 'peak memory'):
        table.add_column(heading, justify='right')
    for runs, lines in ((3, SMALL), (3, arguments.lines), (arguments.runs, arguments.lines)):
        with tempfile.TemporaryDirectory() as name:
            size = make_runs(Path(name), runs, lines)
            first = timed(Path(name))
            again = min((timed(Path(name)) for _ in range(arguments.repeats)), key=lambda one: one['clock_s'])
            kept = sum(file.stat().st_size for file in Path(name).rglob(CACHE)) / runs
        case = f'{runs} × {lines}'
        answer['cases'][case] = {'log_mb': size / 1e6, 'kept_mb': kept / 1e6, 'first': first, 'again': again}
        texts = [f'{one["clock_s"]:.2f} s ({one["processor_s"]:.2f} s of the processor)' for one in (first, again)]
        table.add_row(case, f'{size / 1e6:.1f} MB', *texts, f'{first["memory_mb"]} MB')
    console().print(table)
    Path(__file__).with_suffix('.json').write_text(json.dumps(answer, indent=2) + '\n')


if __name__ == '__main__':
    main()
