"""Images a second against MMDetection's DetInferencer: ``python benchmarks/predict/throughput.py [--out FILE]``.

The shipped small model on made images, both sides in one process, in turns, each round in the other order:

- DetInferencer as it is called to get predictions (``return_datasamples=True``, nothing drawn or written);
- Predictor with all that the config keeps, ``masks`` as bool arrays: the same masks, to the bit;
- Predictor with RLEs, as ``mmext predict`` uses it;
- Predictor with RLEs and ``score_thr=0.5``, the command's own threshold.

The answers are compared before the clock runs. Files are read from the disk each time.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from mmdet.apis import DetInferencer
from rich.table import Table

from mmext import config_root
from mmext.console import console
from mmext.data.demo import KINDS, write_part
from mmext.data.own_data import write_config
from mmext.predict.predictor import Predictor

WEIGHTS = config_root() / 'demo' / 'mask-rcnn_r18_fpn_source.pth'
STOCK = 'DetInferencer'
_BUSY = ', images a processor second'


def sides(config: Path, images: list[Path], device: str, batch_size: int) -> dict[str, Callable[[], object]]:
    inferencer = DetInferencer(str(config), str(WEIGHTS), device=device, show_progress=False)
    every = Predictor(config, WEIGHTS, device, batch_size)
    sure = Predictor(config, WEIGHTS, device, batch_size, score_thr=0.5)
    names = [str(path) for path in images]
    found = {
        STOCK: lambda: inferencer(names, batch_size=batch_size, return_datasamples=True)['predictions'],
        'Predictor, arrays': lambda: every(images),
        'Predictor, RLE': lambda: every.instances(images),
        'Predictor, RLE, score_thr 0.5': lambda: sure.instances(images),
    }
    for ours, theirs in zip(found['Predictor, arrays'](), found[STOCK](), strict=True):
        stock = theirs.pred_instances
        if batch_size == 1 and not np.array_equal(ours['masks'], stock.masks.cpu().numpy()):
            raise SystemExit('the masks differ')
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--images', type=int, default=16)
    parser.add_argument('--batch-size', type=int, default=1)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--out', type=Path, help='write the times as JSON')
    options = parser.parse_args()
    rounds: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, part in enumerate(('train', 'val')):
            list(write_part(folder / part, options.images, (0, number), KINDS['shapes']))
        parts = [(folder / part / 'annotations.json', folder / part) for part in ('train', 'val')]
        write_config(*parts, 'mask-rcnn_r18_fpn_finetune', folder / 'config.py')
        images = sorted((folder / 'val').glob('*.png'))
        run = sides(folder / 'config.py', images, options.device, options.batch_size)
        for function in run.values():
            function()
        for number in range(options.rounds):
            row = {}
            for kind in list(run)[:: -1 if number % 2 else 1]:
                start, busy = time.perf_counter(), time.process_time()
                run[kind]()
                row[kind] = len(images) / (time.perf_counter() - start)
                row[f'{kind}{_BUSY}'] = len(images) / (time.process_time() - busy)
            rounds.append(row)
            print(f'round {number + 1} of {options.rounds}', file=sys.stderr, flush=True)
    table = Table(title=f'{options.rounds} rounds of {options.images} images, {options.device}', title_justify='left')
    for heading in ('', 'images a second', f'÷ {STOCK}', f'processor time ÷ {STOCK}'):
        table.add_column(heading)
    for kind in run:
        busy = f'{kind}{_BUSY}'
        columns = (
            [row[kind] for row in rounds],
            [row[kind] / row[STOCK] for row in rounds],
            [row[f'{STOCK}{_BUSY}'] / row[busy] for row in rounds],
        )
        table.add_row(kind, *(f'{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})' for each in columns))
    console().print(table)
    if options.out:
        machine = {'cores': os.cpu_count(), 'threads': torch.get_num_threads(), 'processor': platform.machine()}
        record = {'torch': torch.__version__, **machine, **{k: v for k, v in vars(options).items() if k != 'out'}}
        options.out.write_text(json.dumps({**record, 'rounds': rounds}, indent=2) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
