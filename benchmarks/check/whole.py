"""Times of the whole command on made documents: ``python benchmarks/check/whole.py [--most 100000]``.

Each is a process of its own, `mmext check CONFIG` with Mask R-CNN R50, on one core, without --images; validation data are
1,000 instances. Documents are those of timing.py; a process starts with imports and the model, which the first size shows.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.table import Table
from timing import NUMBERS, made_document

from mmext.console import console
from mmext.data.own_data import write_config

RECIPE = 'mask-rcnn_r50_fpn_finetune'


def written(folder: Path, number: int, rle: bool, seed: int) -> tuple[Path, Path]:
    """Annotation file and image folder of a made document; the images are empty, as nothing opens them."""
    folder.mkdir()
    document = made_document(number, rle, seed)
    for image in document['images']:
        (folder / image['file_name']).touch()
    path = folder / 'annotations.json'
    path.write_text(json.dumps(document))
    return path, folder


def timed(config: Path) -> tuple[float, float, int]:
    """Seconds, processor seconds and exit code of `mmext check`, on one core."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [Path(sys.executable).parent / 'mmext', 'check', config],
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, {0}),
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, processor, done.returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--most', type=int, default=NUMBERS[-1], help='largest number of instances')
    parser.add_argument('--out', type=Path, default=Path(__file__).with_name('whole.json'))
    arguments = parser.parse_args()
    table, record = Table('form', 'instances', 'seconds', 'processor, s', 'exit code'), {}
    with tempfile.TemporaryDirectory() as root:
        for form in ('polygons', 'RLE'):
            val = written(Path(root, f'{form} val'), 1000, form == 'RLE', 1)
            for number in (number for number in NUMBERS if number <= arguments.most):
                train = written(Path(root, f'{form} {number}'), number, form == 'RLE', 0)
                config = Path(root, f'{form}_{number}.py')
                write_config(train, val, RECIPE, config)
                seconds, processor, code = timed(config)
                table.add_row(form, f'{number:,}', f'{seconds:.1f}', f'{processor:.1f}', str(code))
                record.setdefault(form, {})[str(number)] = {'s': round(seconds, 1), 'processor_s': round(processor, 1)}
    console().print(table)
    arguments.out.write_text(json.dumps(record, indent=2) + '\n')


if __name__ == '__main__':
    main()
