"""Stock MMDetection and mmext on one task, timed in turns in one process: what the scripts of this folder share."""

import argparse
import ctypes
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from rich.table import Table

from mmext.console import console
from mmext.errors import InputError

_PACKAGES = ('torch', 'mmdet', 'mmcv', 'numpy', 'pycocotools')
_LAYOUTS = (('{part}/annotations.json', '{part}'), ('annotations/{part}.json', '{part}'))


# MMEngine's default hooks, but for the one that draws
STOCK_HOOKS = {
    'timer': {'type': 'IterTimerHook'},
    'logger': {'type': 'LoggerHook', 'interval': 5},
    'param_scheduler': {'type': 'ParamSchedulerHook'},
    'checkpoint': {'type': 'CheckpointHook', 'interval': 1, 'max_keep_ckpts': 2},
    'sampler_seed': {'type': 'DistSamplerSeedHook'},
}


def options(doc: str, name: str, rounds: int) -> argparse.Namespace:
    """Command line of a script, which writes ``NAME.json`` beside itself unless told otherwise."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=rounds, help=f'times that each side runs (default {rounds})')
    parser.add_argument('--data', type=Path, help='a COCO folder of your own: adds its rows')
    parser.add_argument('--out', type=Path, default=Path(__file__).with_name(f'{name}.json'))
    return parser.parse_args()


def coco_parts(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Annotation file and image folder of ``train`` and ``val`` in a COCO folder.

    Raises:
        InputError: the folder has neither ``train/annotations.json`` nor ``annotations/train.json``, and so for val.
    """
    for file, images in _LAYOUTS:
        parts = {part: (folder / file.format(part=part), folder / images.format(part=part)) for part in ('train', 'val')}
        if all(ann.is_file() for ann, _ in parts.values()):
            return parts
    raise InputError(
        f'--data: {folder} has no annotations of train and val. Wanted: train/annotations.json and val/annotations.json, '
        'or annotations/train.json and annotations/val.json, and the images in train and val.'
    )


def must_equal(equal: bool, words: str) -> None:
    """End the script when two sides differ: a ratio of two different answers says nothing."""
    if not equal:
        raise SystemExit(f'NOT EQUAL: {words}')


def side_by_side(
    row: str,
    data: str,
    sides: Mapping[str, Callable[[], object]],
    rounds: int,
    equal: str,
    bound: float | None = None,
    memory: bool = False,
) -> dict:
    """Time the sides in turns, in the other order every round, after one call of each that does not count.

    Args:
        row: the step that is timed.
        data: what it is timed on.
        sides: name to function; the last is mmext's, the first the one that ``bound`` is a ratio to.
        rounds: calls of each side.
        equal: what was compared before, in words.
        bound: ratio that is aimed at.
        memory: measure the most memory that each side takes beyond what there was before, too (Linux).

    Returns:
        The record that ``tables.py`` reads: times in seconds, memory in bytes.
    """
    peaks = {name: peak_bytes(call) if memory else None for name, call in sides.items()}
    if not memory:
        for call in sides.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            start = time.perf_counter()
            sides[name]()
            seconds[name].append(time.perf_counter() - start)
    found = {name: {'seconds': seconds[name], 'peak_bytes': peaks[name]} for name in sides}
    return record_of(row, data, found, equal, bound)


def record_of(row: str, data: str, sides: Mapping[str, dict], equal: str = '', bound: float | None = None) -> dict:
    """The record of times that are there already, which is told; arguments are those of :func:`side_by_side`.

    Args:
        sides: name to ``seconds`` and ``peak_bytes`` (None: not measured), and whatever else is kept.
    """
    record = {'row': row, 'data': data, 'equal': equal, 'bound': bound, 'sides': dict(sides)}
    print(in_words(record), flush=True)
    return record


def ratios(record: dict, side: str | None = None) -> list[float]:
    """Times of a side, by default the first, over mmext's, round by round."""
    *others, ours = record['sides']
    pairs = zip(record['sides'][side or others[0]]['seconds'], record['sides'][ours]['seconds'], strict=True)
    return [other / own for other, own in pairs]


def spread(values: Sequence[float]) -> str:
    """Median and, in brackets, the lowest and the highest."""
    return f'{statistics.median(values):.3g} ({min(values):.3g}-{max(values):.3g})'


def in_words(record: dict) -> str:
    """A record as one line."""
    *others, ours = record['sides']
    times = ', '.join(
        f'{statistics.median(record["sides"][name]["seconds"]) * 1e3:.4g} ms {name}' for name in record['sides']
    )
    faster = ', '.join(f'{spread(ratios(record, name))} times {name}' for name in others)
    return f'{record["row"]}, {record["data"]}: {times}; {ours} as fast as {faster}'


def peak_bytes(call: Callable[[], object]) -> int:
    """Most memory of this process during a call, beyond what it had before; 0 for what finds room in memory held already.

    Read from Linux's ``/proc``, whose high-water mark can be set back; free memory is given back to the system before.
    """
    ctypes.CDLL(None).malloc_trim(0)
    Path('/proc/self/clear_refs').write_text('5')
    before = _status('VmRSS')
    call()
    return max(_status('VmHWM') - before, 0)


def _status(name: str) -> int:
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f'{name}:'))


def machine() -> dict:
    """What the times depend on."""
    model = next(
        (line.partition(':')[2].strip() for line in Path('/proc/cpuinfo').read_text().splitlines() if 'model name' in line),
        platform.processor(),
    )
    return {
        'processor': model,
        'cores': os.cpu_count(),
        'threads': torch.get_num_threads(),
        'gpu': torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        'python': platform.python_version(),
        **{package: version(package) for package in _PACKAGES},
    }


def write(records: Sequence[dict], out: Path) -> None:
    """Keep the records, and print them as a table."""
    out.write_text(json.dumps({'machine': machine(), 'rows': list(records)}, indent=1) + '\n')
    table = Table(title=out.stem.replace('_', ' '), title_justify='left')
    for heading in ('step', 'data', 'side', 'time', 'ratio', 'aim', 'peak memory'):
        table.add_column(heading)
    for record in records:
        *_, ours = record['sides']
        for place, (name, side) in enumerate(record['sides'].items()):
            peak = '' if side['peak_bytes'] is None else f'{side["peak_bytes"] / 2**20:.1f} MiB'
            aim = f'{record["bound"]:g}' if not place and record['bound'] else ''
            ratio = '' if name == ours else spread(ratios(record, name))
            first = ('', '') if place else (record['row'], record['data'])
            table.add_row(*first, name, f'{statistics.median(side["seconds"]) * 1e3:.4g} ms', ratio, aim, peak)
    console().print(table)
    sys.stdout.flush()
