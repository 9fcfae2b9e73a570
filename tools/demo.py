#!/usr/bin/env python3
"""`make demo`: fine-tune the shipped source model at four choices of rates and equal budget, compare, and draw.

Usage: python tools/demo.py [--seeds 0 1 2] [--work-dirs work_dirs/demo]
"""

import argparse
import collections
import os
import re
import shlex
import subprocess
import sys
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNS = {
    'uniform': 'mask-rcnn_r18_fpn_finetune_uniform_demo.py',
    'differential-10x': 'mask-rcnn_r18_fpn_finetune_differential-10x_demo.py',
    'uniform-5x': 'mask-rcnn_r18_fpn_finetune_uniform-5x_demo.py',
    'differential-10x-adam': 'mask-rcnn_r18_fpn_finetune_demo.py',
}
# of all that MMDetection prints, what this demo is about; everything is in console.txt of each run
_GROUP_LINES = re.compile(r'^(Parameter groups|New tensors|  new  )')
_BLOCK_LINES = re.compile(r'^(Epoch \d+ of|box AP)')
_TABLE_LINES = re.compile(r'^[┏┃┡│├└]')


def train(name: str, seed: int, work_dir: Path, with_groups: bool) -> None:
    """Train one run through `mim train mmdet`; show the table of groups and the block of each epoch."""
    command = [str(Path(sys.executable).parent / 'mim'), 'train', 'mmdet', str(ROOT / 'configs/demo' / RUNS[name])]
    command += ['--work-dir', str(work_dir), '--cfg-options', f'randomness.seed={seed}']
    print('$', shlex.join([Path(command[0]).name, *map(_from_here, command[1:])]), flush=True)
    work_dir.mkdir(parents=True, exist_ok=True)
    show, last = False, collections.deque(maxlen=15)
    environment = {**os.environ, 'PYTHONUTF8': '1', 'COLUMNS': '120'}
    with (work_dir / 'console.txt').open('w', encoding='utf-8') as console:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding='utf-8', env=environment
        )
        for line in process.stdout:
            console.write(line)
            last.append(line)
            if _GROUP_LINES.match(line):
                show = with_groups
            elif _BLOCK_LINES.match(line):
                show = True
            elif not _TABLE_LINES.match(line):
                show = False
            if show:
                print(line, end='', flush=True)
    if process.wait():
        sys.exit(f'{"".join(last)}\n{name} failed; its whole output is in {work_dir / "console.txt"}')


def _from_here(path: str | Path) -> str:
    """An absolute path under the working directory as it can be typed; anything else as it is."""
    here = f'{Path.cwd()}{os.sep}'
    return str(path).removeprefix(here)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--work-dirs', type=Path, default=ROOT / 'work_dirs/demo')
    arguments = parser.parse_args()
    warnings.filterwarnings('ignore')  # MMEngine's deprecation notes, one a config
    begin = time.monotonic()
    folders = []
    for seed in arguments.seeds:
        for name in RUNS:
            work_dir = arguments.work_dirs / (name if arguments.seeds == [0] else f'{name}-seed{seed}')
            train(name, seed, work_dir, with_groups=not folders)
            folders.append(work_dir)
    print(f'Trained in {time.monotonic() - begin:.0f} s.\n', flush=True)

    from mmext.console import console
    from mmext.demo_report import draw, evaluate, spread_table, to_table

    results = []
    for work_dir in folders:
        result, files, truths = evaluate(work_dir)
        results.append(result)
    console().print(to_table(results))
    if len(arguments.seeds) > 1:
        console().print(spread_table(results))
    picture = arguments.work_dirs / 'masks.png'
    draw(results[: len(RUNS)], files, truths, picture)
    print(f'\nPicture:  {_from_here(picture)}')
    print('Compare: ', shlex.join(['mmext', 'compare', *map(_from_here, folders)]))
    print('Curves:  ', shlex.join(['tensorboard', '--logdir', _from_here(arguments.work_dirs)]))
    print('Page:     docs/demo.md')


if __name__ == '__main__':
    main()
