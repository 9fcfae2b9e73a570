"""Write the tables of docs/performance.md from the records beside this script: ``python benchmarks/performance/tables.py``.

A row that no record has stays empty, with what it needs.
"""

import json
import statistics
import sys
from pathlib import Path

from side_by_side import ratios

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / 'docs' / 'performance.md'
BEGIN, END = '<!-- made by benchmarks/performance/tables.py -->', '<!-- end of the tables -->'
# script to heading, in the order of the page
SECTIONS = {
    'train_pipeline': 'Reading training images',
    'mask_targets': 'Mask targets',
    'mask_output': 'Masks of predictions',
    'coco_evaluation': 'COCO evaluation',
    'rpn_assignment': "Assignment of the RPN's anchors",
    'cpu_precision': 'Processors without a GPU: bf16 and channels_last',
    'own_cost': 'What mmext itself costs',
    'whole_runs': 'Whole trainings',
    'whole_runs_r50': 'Whole trainings, R50',
    'gpu': 'On a GPU',
}
# what `make bench` leaves out, since it takes long
COMMANDS = {'whole_runs_r50': 'whole_runs.py --r50 20'}
HEADINGS = ('step', 'data', 'against', 'its time', "mmext's time", 'times as fast', 'aim', 'peak memory: its, mmext')


def in_time(seconds: float) -> str:
    """A time with three digits in a readable unit."""
    if not seconds:
        return ''
    for unit, size in (('s', 1), ('ms', 1e-3)):
        if seconds >= size:
            return f'{seconds / size:.3g} {unit}' if seconds < 1000 * size else f'{seconds:.0f} s'
    return f'{seconds / 1e-6:.3g} µs'


def in_memory(size: int | None) -> str:
    return '' if size is None else f'{size / 2**20:,.1f} MiB'


def row_cells(record: dict) -> list[list[str]]:
    """Cells of a record: a row for each side that mmext's is held against."""
    *others, ours = record['sides']
    own = record['sides'][ours]
    rows = []
    for place, name in enumerate(others):
        side, found = record['sides'][name], ratios(record, name)
        aim = record['bound'] if not place else None
        reached = '' if aim is None else f'{aim:g}: {"met" if statistics.median(found) >= aim else "**missed**"}'
        memory = f'{in_memory(side["peak_bytes"])}, {in_memory(own["peak_bytes"])}' if own['peak_bytes'] is not None else ''
        rows.append(
            [
                record['row'] + (f': {ours.removeprefix("mmext, ")}' if ours.startswith('mmext, ') else ''),
                record['data'],
                name,
                in_time(statistics.median(side['seconds'])),
                in_time(statistics.median(own['seconds'])),
                f'{statistics.median(found):.3g} ({min(found):.3g}-{max(found):.3g})',
                reached,
                memory,
            ]
        )
    return rows


def step_table(records: list[dict]) -> list[str]:
    """Lines of a table of the seconds in each step of whole trainings; of other records none."""
    rows = [(record, name, side) for record in records for name, side in record['sides'].items() if 'steps' in side]
    if not rows:
        return []
    steps = list(dict.fromkeys(step for *_, side in rows for run in side['steps'] for step in run))
    lines = [f'| step | data | side | {" | ".join(steps)} |', f'|{" --- |" * (len(steps) + 3)}']
    for record, name, side in rows:
        means = [statistics.mean(run.get(step, 0) for run in side['steps']) for step in steps]
        lines.append(f'| {record["row"]} | {record["data"]} | {name} | {" | ".join(map(in_time, means))} |')
    return [*lines, '']


def section(name: str, heading: str) -> list[str]:
    """Lines of one script's table."""
    file = HERE / f'{name}.json'
    lines = [f'### {heading}', '', f'`python benchmarks/performance/{COMMANDS.get(name, f"{name}.py")}`', '']
    if not file.exists():
        return [*lines, 'Not measured yet: no machine for it was at hand.', '']
    kept = json.loads(file.read_text())
    lines += [in_words(kept['machine']), '', f'| {" | ".join(HEADINGS)} |', f'|{" --- |" * len(HEADINGS)}']
    for record in kept['rows']:
        lines += [f'| {" | ".join(cells)} |' for cells in row_cells(record)]
    lines += ['', *step_table(kept['rows'])]
    compared = dict.fromkeys(record['equal'] for record in kept['rows'] if record['equal'])
    return [*lines, *(f'Compared before: {words}.' for words in compared), '']


def in_words(machine: dict) -> str:
    where = machine['gpu'] or f'{machine["processor"]}, {machine["cores"]} cores, {machine["threads"]} threads'
    versions = ', '.join(f'{name} {machine[name]}' for name in ('python', 'torch', 'mmdet', 'numpy', 'pycocotools'))
    return f'On {where}; {versions}.'


def main() -> int:
    head, _, rest = PAGE.read_text().partition(BEGIN)
    tail = rest.partition(END)[2]
    lines = [line for name, heading in SECTIONS.items() for line in section(name, heading)]
    PAGE.write_text('\n'.join([head + BEGIN, '', *lines, END]) + tail)
    print(f'{PAGE.name} is written.')
    return 0


if __name__ == '__main__':
    sys.exit(main())
