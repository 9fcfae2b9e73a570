"""What 16 bits cost: the demo data in 8 bits, and in a copy as a camera of 12 bits writes it into 16, trained on alike.

``python benchmarks/data/sixteen_bits.py [--seeds 0 1 2] [--jobs 1] [--out FILE]``

Trains what ``mmext init`` writes for both, and the copy once more with stock loading, by ``mim train``, 120
iterations each. A grey value v of 8 bits is 200 + 14 v in the copy, and 0 to 13 of noise. Prints mask AP and box AP of
each, and the differences from 8 bits with the same seed. What the file holds is not run again.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from rich.table import Table

from mmext.console import console

RECIPE = 'mask-rcnn_r18_fpn_finetune_differential-10x'
PARTS = ('train', 'val')
DARKEST, STEP = 200, 14
SIDES = {
    'eight': '8 bits',
    'sixteen': '16 bits, as mmext init writes it',
    'stock': '16 bits, LoadImageFromFile',
}
METRICS = {'mask AP': 'coco/segm_mAP', 'box AP': 'coco/bbox_mAP'}


def command(name: str, *arguments) -> None:
    """Run a command of this environment; its output is shown when it fails."""
    program = Path(sys.executable).parent / name
    done = subprocess.run(
        [program, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f'{name} {" ".join(map(str, arguments))}\n{done.stdout}')


def as_twelve_bits(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """8 bits in the lower 3784 of 65536 grey values."""
    return (DARKEST + STEP * image.astype(int) + rng.integers(0, STEP, image.shape)).astype(np.uint16)


def write_copy(source: Path, target: Path) -> None:
    """The data set in 16-bit PNG, under the same names."""
    rng = np.random.default_rng(0)
    for part in PARTS:
        (target / part).mkdir(parents=True)
        (target / part / 'annotations.json').write_bytes((source / part / 'annotations.json').read_bytes())
        for path in sorted((source / part).glob('*.png')):
            cv2.imwrite(str(target / part / path.name), as_twelve_bits(cv2.imread(str(path)), rng))


def write_configs(folder: Path) -> dict[str, Path]:
    """The data sets and a config for each side."""
    command('mmext', 'demo-data', folder / 'eight', '--images', 60, '--seed', 0)
    write_copy(folder / 'eight', folder / 'sixteen')
    for side in ('eight', 'sixteen'):
        parts = [
            word for part in PARTS for word in (f'--{part}', folder / side / part / 'annotations.json', folder / side / part)
        ]
        command('mmext', 'init', *parts, '--recipe', RECIPE, '--out', folder / f'{side}.py')
    cfg = Config.fromfile(folder / 'sixteen.py')
    for part in ('train', 'val', 'test'):
        cfg[f'{part}_dataloader'].dataset.pipeline[0] = {'type': 'LoadImageFromFile'}
    cfg.dump(folder / 'stock.py')
    return {side: folder / f'{side}.py' for side in SIDES}


def train(config: Path, seed: int) -> dict[str, float]:
    """AP of the last validation."""
    work_dir = config.parent / f'{config.stem}-{seed}'
    command('mim', 'train', 'mmdet', config, '--work-dir', work_dir, '--cfg-options', f'randomness.seed={seed}')
    (log,) = work_dir.glob('*/vis_data/scalars.json')
    last = json.loads(log.read_text().splitlines()[-1])
    return {name: last[key] for name, key in METRICS.items()}


def table_of(runs: dict[str, dict], seeds: Sequence[int], metric: str) -> Table:
    """A row a side: mean, least and most over the seeds, and the differences from 8 bits with the same seed."""
    table = Table(title=f'{metric}, seeds {", ".join(map(str, seeds))}', title_justify='left')
    for heading in ('images', 'mean', 'least to most', 'minus 8 bits, each seed', 'mean'):
        table.add_column(heading)
    eight = [runs[f'eight {seed}'][metric] for seed in seeds]
    for side, words in SIDES.items():
        found = [runs[f'{side} {seed}'][metric] for seed in seeds]
        differences = [one - other for one, other in zip(found, eight, strict=True)]
        each = ', '.join(f'{one:+.3f}' for one in differences) if side != 'eight' else ''
        mean = f'{statistics.fmean(differences):+.3f}' if side != 'eight' else ''
        table.add_row(words, f'{statistics.fmean(found):.3f}', f'{min(found):.3f} to {max(found):.3f}', each, mean)
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--jobs', type=int, default=1, help='trainings at a time')
    parser.add_argument('--out', type=Path, default=Path(__file__).with_suffix('.json'))
    given = parser.parse_args()
    record = json.loads(given.out.read_text()) if given.out.is_file() else {'runs': {}}
    wanted = [(side, seed) for seed in given.seeds for side in SIDES if f'{side} {seed}' not in record['runs']]
    if wanted:
        with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(given.jobs) as pool:
            configs = write_configs(Path(name))
            record |= {
                'recipe': RECIPE,
                'limits': Config.fromfile(configs['sixteen']).load_image.limits,
                'torch': torch.__version__,
                'threads': os.environ.get('OMP_NUM_THREADS'),
            }
            answers = pool.map(lambda one: train(configs[one[0]], one[1]), wanted)
            for (side, seed), answer in zip(wanted, answers, strict=True):
                record['runs'][f'{side} {seed}'] = answer
                given.out.write_text(json.dumps(record, indent=1) + '\n')
                print(f'{side} {seed}: {answer}', flush=True)
    for metric in METRICS:
        console().print(table_of(record['runs'], given.seeds, metric))
    return 0


if __name__ == '__main__':
    sys.exit(main())
