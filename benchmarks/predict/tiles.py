"""Large images by tiles, against sahi: ``python benchmarks/predict/tiles.py [--seeds 5] [--sahi FOLDER] [--out FILE]``.

Lines of up to 300 px, 3 to 5 px wide, any direction, none alike, in an image of 4096 x 4096; tiles of 1024, overlap 0.2.

1. Perfect tile predictions, the ground truth cut to each tile, joined by mmext and by sahi's three ways (its default metric,
   IOS of the boxes at 0.5). Exit code 1 unless mmext gives every line, and nothing else, at IoU >= 0.99.
2. Predictions with faults, joined at three agreements: lines in several pieces, objects of several lines.
3. Peak memory of a process that predicts images of 2048 to 16384 pixels a side, each window made when it is read.

sahi is no dependency: ``pip install --no-deps --target FOLDER sahi==0.12.8``. Without it its rows say so. One core
(``taskset -c 0``, ``OMP_NUM_THREADS=1``), processor seconds; memory is read from Linux's /proc.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask
from rich.table import Table
from scipy import ndimage

from mmext.analysis.mask_window import draw, encode, window_of
from mmext.console import console
from mmext.predict.instances import Instances
from mmext.predict.tiles import Window, join_tiles, predict_tiled, tile_grid

SIDE, LINES, LONGEST = 4096, 272, 300
SIDES = (2048, 4096, 8192, 16384)
SAME = 0.99
WAYS = ('GREEDYNMM', 'NMM', 'NMS')
AGREEMENTS = (0.3, 0.5, 0.7)
# what is done to each part: pixels moved at most, thicker or thinner by a pixel, pixels lost at most where the tile cuts it,
# share missing, share of the wrong class
FAULTS = {
    'moved by up to 1 px': (1, False, 0, 0, 0),
    'moved by up to 2 px': (2, False, 0, 0, 0),
    'moved by up to 1 px, up to 1 px thicker or thinner': (1, True, 0, 0, 0),
    'moved by up to 1 px, ends up to 8 px before the edge': (1, False, 8, 0, 0),
    'moved by up to 1 px, ends up to 30 px before the edge': (1, False, 30, 0, 0),
    'moved by up to 1 px, 10 % of the cut parts missing': (1, False, 0, 0.1, 0),
    'moved by up to 1 px, 10 % of the wrong class': (1, False, 0, 0, 0.1),
}


def made_lines(side: int, number: int, seed: int) -> np.ndarray:
    """(number, 5): x and y of both ends, width."""
    rng, found = np.random.default_rng(seed), []
    while len(found) < number:
        middle, angle, half = rng.uniform(0, side, 2), rng.uniform(0, np.pi), rng.uniform(15, LONGEST / 2)
        ends = middle + np.array([[-half], [half]]) * [np.cos(angle), np.sin(angle)]
        if ends.min() > 8 and ends.max() < side - 8:
            found.append([*ends.ravel(), rng.uniform(3, 5)])
    return np.array(found)


def drawn(line: np.ndarray, window: Sequence[int]) -> tuple[np.ndarray, int, int] | None:
    """The line's pixels in a window, as a mask of its own size and the place of that in the window; None without any."""
    ends, reach = line[:4].reshape(2, 2), line[4]
    x1, y1 = np.maximum(np.floor(ends.min(0) - reach), window[:2]).astype(int)
    x2, y2 = np.minimum(np.ceil(ends.max(0) + reach) + 1, window[2:]).astype(int)
    if x1 >= x2 or y1 >= y2:
        return None
    x, y = np.meshgrid(np.arange(x1, x2), np.arange(y1, y2))
    step = ends[1] - ends[0]
    along = np.clip(((x - ends[0, 0]) * step[0] + (y - ends[0, 1]) * step[1]) / (step @ step), 0, 1)
    mask = np.hypot(x - ends[0, 0] - along * step[0], y - ends[0, 1] - along * step[1]) <= reach / 2
    return _trimmed(mask, x1 - window[0], y1 - window[1])


def _trimmed(mask: np.ndarray, x: int, y: int) -> tuple[np.ndarray, int, int] | None:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], int(x + columns[0]), int(y + rows[0])


def predicted(lines: np.ndarray, window: Sequence[int], change: Callable | None = None) -> Instances:
    """What a perfect model finds in a window, or what ``change`` makes of it. Each line has a score of its own: equal
    parts keep it, so that joined objects tell what they are made of."""
    size, found = (window[3] - window[1], window[2] - window[0]), []
    low, high = lines[:, :4].reshape(-1, 2, 2).min(1) - 6, lines[:, :4].reshape(-1, 2, 2).max(1) + 6
    there = (low < window[2:]).all(1) & (high > window[:2]).all(1)
    for number in np.flatnonzero(there):
        one = drawn(lines[number], window)
        if one is not None and change is not None:
            one, label = change(*one, size)
        else:
            label = 0
        if one is not None:
            found.append((*one, label, (number + 1) / 2**14))
    return Instances(
        size,
        np.array([label for *_, label, _ in found], np.int64),
        np.array([score for *_, score in found], np.float32),
        np.array([[x, y, x + mask.shape[1], y + mask.shape[0]] for mask, x, y, *_ in found], np.float32).reshape(-1, 4),
        [encode(mask, x, y, size) for mask, x, y, *_ in found],
        ('Fiber', 'Film'),
    )


def faulty(rng: np.random.Generator, window: Sequence[int], side: int, fault: tuple) -> Callable:
    """A ``change`` for ``predicted``."""
    moved, thickness, short, missing, wrong = fault

    def change(mask: np.ndarray, x: int, y: int, size: tuple[int, int]) -> tuple[tuple | None, int]:
        height, width = size
        at_edge = x == 0 or y == 0 or x + mask.shape[1] == width or y + mask.shape[0] == height
        if at_edge and rng.random() < missing:
            return None, 0
        mask, (dx, dy) = np.pad(mask, 3), rng.integers(-moved, moved + 1, 2)
        if thickness:
            kind = rng.integers(3)
            thinner = ndimage.binary_erosion(mask, np.ones((2, 2)))
            mask = (
                ndimage.binary_dilation(mask, np.ones((2, 2))) if kind == 2 else thinner if kind and thinner.any() else mask
            )
        left, top, right, bottom = -np.array([x - 3 + dx, y - 3 + dy] * 2) + [0, 0, width, height]
        lost = rng.integers(short + 1)
        left, top = left + lost * (window[0] > 0), top + lost * (window[1] > 0)
        right, bottom = right - lost * (window[2] < side), bottom - lost * (window[3] < side)
        kept = np.zeros_like(mask)
        inside = slice(max(top, 0), max(bottom, 0)), slice(max(left, 0), max(right, 0))
        kept[inside] = mask[inside]
        return _trimmed(kept, x - 3 + dx, y - 3 + dy), int(rng.random() < wrong)

    return change


def truth_of(lines: np.ndarray, side: int) -> list[dict]:
    return [encode(*drawn(line, (0, 0, side, side)), (side, side)) for line in lines]


def found_same(truth: Sequence[dict], rles: Sequence[dict]) -> int:
    """How many of the true lines have an object at IoU >= 0.99."""
    if not rles:
        return 0
    return int((coco_mask.iou(list(rles), list(truth), [0] * len(truth)).max(0) >= SAME).sum())


def joined_by_sahi(parts: Sequence[tuple[Window, Instances]], side: int, way: str) -> tuple[float, list[dict]]:
    """Seconds of sahi's merging alone, and the RLEs of its objects."""
    import cv2
    from sahi.postprocess import combine
    from sahi.prediction import ObjectPrediction
    from sahi.utils.cv import get_coco_segmentation_from_bool_mask

    found = []
    for window, instances in parts:
        for rle, score in zip(instances.rles, instances.scores, strict=True):
            x1, y1, x2, y2 = box = window_of(rle)
            mask = draw(rle, box)
            polygons = get_coco_segmentation_from_bool_mask(mask.astype(bool))
            if not polygons:
                continue  # sahi has no form for a mask of two pixels
            place = [[int(value) + (x1, y1)[i % 2] for i, value in enumerate(polygon)] for polygon in polygons]
            one = ObjectPrediction(
                bbox=[x1, y1, x2, y2],
                category_id=0,
                category_name='Fiber',
                score=float(score),
                segmentation=place,
                shift_amount=[window.x1, window.y1],
                full_shape=[side, side],
            )
            found.append(one.get_shifted_object_prediction())
    names = {'GREEDYNMM': 'GreedyNMMPostprocess', 'NMM': 'NMMPostprocess', 'NMS': 'NMSPostprocess'}
    merge = getattr(combine, names[way])(match_threshold=0.5, match_metric='IOS', class_agnostic=False)
    start = time.process_time()
    merged = merge(found)
    seconds = time.process_time() - start
    rles = []
    for one in merged:
        polygons = [np.array(polygon).reshape(-1, 2).round().astype(int) for polygon in one.mask.segmentation]
        (x1, y1), (x2, y2) = np.concatenate(polygons).min(0), np.concatenate(polygons).max(0) + 1
        mask = np.zeros((y2 - y1, x2 - x1), np.uint8)
        cv2.fillPoly(mask, [(polygon - (x1, y1)).astype(np.int32) for polygon in polygons], 1)
        rles.append(encode(mask, int(x1), int(y1), (side, side)))
    return seconds, rles


def perfect(seeds: int, with_sahi: bool) -> dict:
    """For each way: objects, lines at IoU >= 0.99, seconds, of every seed."""
    record = {way: [] for way in ('mmext', *(f'sahi {way}' for way in WAYS if with_sahi))}
    for seed in range(seeds):
        lines = made_lines(SIDE, LINES, seed)
        truth = truth_of(lines, SIDE)
        assert len({rle['counts'] for rle in truth}) == LINES, 'two lines are alike'
        parts = [(window, predicted(lines, window)) for window in tile_grid((SIDE, SIDE))]
        start = time.process_time()
        found = join_tiles(parts, (SIDE, SIDE))
        seconds = time.process_time() - start
        record['mmext'].append([len(found), found_same(truth, found.rles), round(seconds, 3)])
        for way in WAYS if with_sahi else ():
            seconds, rles = joined_by_sahi(parts, SIDE, way)
            record[f'sahi {way}'].append([len(rles), found_same(truth, rles), round(seconds, 3)])
    return record


def with_faults(seeds: int) -> dict:
    """For each fault and agreement, means over the seeds: pieces of lines too many, and objects of several lines."""
    record = {}
    for name, fault in FAULTS.items():
        sums = {agreement: np.zeros(2) for agreement in AGREEMENTS}
        for seed in range(seeds):
            lines, rng = made_lines(SIDE, LINES, seed), np.random.default_rng(seed)
            windows = tile_grid((SIDE, SIDE))
            parts = [(window, predicted(lines, window, faulty(rng, window, SIDE, fault))) for window in windows]
            for agreement in AGREEMENTS:
                code = join_tiles(parts, (SIDE, SIDE), agreement).scores.astype(float) * 2**14
                pure = np.abs(code - code.round()) < 1e-3
                pieces = np.bincount(code[pure].round().astype(int))
                sums[agreement] += np.maximum(pieces - 1, 0).sum(), (~pure).sum()
        record[name] = {str(agreement): (sums[agreement] / seeds).round(1).tolist() for agreement in AGREEMENTS}
    return record


def peak_memory(side: int, number: int) -> None:
    """Predict one image and print its objects, peak memory before and after in MB, and seconds."""
    lines, seen = made_lines(side, number, 0), []

    def read(window: Window) -> np.ndarray:
        seen[:] = [window]
        return np.random.default_rng(window).integers(0, 2**16, (window.y2 - window.y1, window.x2 - window.x1), np.uint16)

    def memory() -> float:
        # not getrusage's: that begins with the memory of the process which started this one
        status = Path('/proc/self/status').read_text()
        return int(status.split('VmHWM:')[1].split()[0]) / 1024

    predict_tiled(lambda picture: predicted(lines, seen[0]), read, (1024, 1024))
    before, start = memory(), time.process_time()
    found = predict_tiled(lambda picture: predicted(lines, seen[0]), read, (side, side))
    print(json.dumps([len(found), round(before, 1), round(memory(), 1), round(time.process_time() - start, 1)]))


def memories() -> list[dict]:
    rows = []
    for side in SIDES:
        for number in dict.fromkeys((LINES, LINES * side**2 // SIDE**2)):
            command = [sys.executable, __file__, '--peak-of', str(side), str(number)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            objects, before, after, seconds = json.loads(done.stdout)
            assert objects == number, f'{objects} objects of {number} lines in {side}'
            rows.append({'side': side, 'lines': number, 'one tile, MB': before, 'peak, MB': after, 's': seconds})
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seeds', type=int, default=5)
    parser.add_argument('--sahi', type=Path, help='folder that sahi was installed into')
    parser.add_argument('--peak-of', type=int, nargs=2, metavar=('SIDE', 'LINES'), help=argparse.SUPPRESS)
    parser.add_argument('--out', type=Path, default=Path(__file__).with_suffix('.json'))
    arguments = parser.parse_args()
    if arguments.peak_of:
        peak_memory(*arguments.peak_of)
        return 0
    if arguments.sahi:
        sys.path.append(str(arguments.sahi))
    try:
        import sahi

        version = sahi.__version__
    except ImportError:
        version = None
    out = console()
    record = {'sahi': version, 'perfect': perfect(arguments.seeds, version is not None)}
    table = Table('joined by', f'objects ({LINES} lines)', f'lines at IoU >= {SAME}', 'seconds, median')
    for way, rows in record['perfect'].items():
        objects, same, seconds = zip(*rows, strict=True)
        table.add_row(way, ' '.join(map(str, objects)), ' '.join(map(str, same)), f'{np.median(seconds):.2f}')
    if version is None:
        table.add_row('sahi', 'not run: sahi is not installed', '', '')
    out.print(table)
    wrong = [row for row in record['perfect']['mmext'] if row[:2] != [LINES, LINES]]
    if wrong:
        out.print(f'mmext did not give exactly the {LINES} lines: {wrong}')
        return 1
    record['faults'] = with_faults(min(arguments.seeds, 3))
    table = Table('parts', *(f'agreement {agreement}: pieces too many, merged' for agreement in AGREEMENTS))
    for name, row in record['faults'].items():
        table.add_row(name, *(f'{pieces:g}, {merged:g}' for pieces, merged in row.values()))
    out.print(table)
    record['memory'] = memories()
    table = Table('side, px', 'lines', 'peak after one tile, MB', 'peak, MB', 'seconds, with drawing')
    for row in record['memory']:
        table.add_row(*map(str, row.values()))
    out.print(table)
    arguments.out.write_text(json.dumps(record, indent=2) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
