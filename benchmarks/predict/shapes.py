"""Error and time of shape measures on made objects: ``python benchmarks/predict/shapes.py [--fibers 1000] [--out FILE]``.

Fibers are all places no farther than half a width from a curve whose heading is integrated from its curvature, so that its
length is known exactly; a pixel is filled when its centre is such a place. Such ends are round: the true length is the
curve's and half a width at each end. Flat ends are cut off square where the curve ends. Lengths 40-300, widths 3-7, radii of
curvature from 3 widths on, any position and direction. Beside ours: the steps of the skeleton's longest path and twice the
mean distance to the outside along it, as skan and a distance transform give them. Processor milliseconds, one core.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask
from scipy.ndimage import binary_dilation, distance_transform_edt
from scipy.spatial import cKDTree

from mmext.console import console
from mmext.predict.centerline import arc_length, length_and_width, skeleton_path
from mmext.predict.measure import measure

STEP = 0.05
LENGTHS, WIDTHS = (40, 300), (3, 7)
RADII = (3, 5, 10, 20)
# the directions between which sums of steps differ most; at 0, 45 and 90 degrees pixels stand in rows along the line
GRID_DIRECTIONS = (0, 22.5, 45, 67.5, 90)


def curve(curvature: np.ndarray, direction: float) -> np.ndarray:
    """(N, 2) points ``STEP`` apart: the heading is the integral of the curvature (N,)."""
    heading = direction + np.concatenate(([0], ((curvature[1:] + curvature[:-1]) / 2 * STEP).cumsum()))
    steps = np.stack((np.cos(heading), np.sin(heading)), 1) * STEP
    return np.concatenate((np.zeros((1, 2)), ((steps[1:] + steps[:-1]) / 2).cumsum(0)))


def is_clear(points: np.ndarray, width: float) -> bool:
    """Whether no two places far apart along the curve come near each other."""
    few = points[::20]
    apart = np.linalg.norm(few[:, None] - few[None], axis=2)
    along = np.abs(np.subtract.outer(np.arange(len(few)), np.arange(len(few)))) * 20 * STEP
    return not ((along > 2 * width + 6) & (apart < width + 3)).any()


def drawn(points: np.ndarray, width: float, shift: np.ndarray, flat: bool = False) -> np.ndarray:
    """(H, W) bool: pixels with a centre at most half a width from the curve; with flat ends, not beyond its ends."""
    points = points - points.min(0) + width / 2 + 3 + shift
    columns, rows = np.ceil(points.max(0) + width / 2 + 3).astype(int)
    near = np.zeros((rows, columns), bool)
    near[tuple(points[:, ::-1].astype(int).T)] = True
    near = binary_dilation(near, np.ones((3, 3)), iterations=int(width / 2) + 2)
    centres = np.argwhere(near)[:, ::-1] + 0.5
    distance, nearest = cKDTree(points).query(centres)
    inside = distance <= width / 2
    if flat:
        for end, before in ((0, 1), (len(points) - 1, len(points) - 2)):
            beyond = (centres - points[end]) @ (points[end] - points[before]) > 0
            inside &= ~((nearest == end) & beyond)
    near[near] = inside
    return near


def fiber(rng: np.random.Generator, kind: str, flat: bool = False) -> tuple[np.ndarray, float, float]:
    """A mask with its true length and width. ``kind``: arc, wave, straight, or grid: straight in one of five directions."""
    while True:
        width, length = rng.uniform(*WIDTHS), rng.uniform(*LENGTHS)
        along = np.arange(0, length - (0 if flat else width), STEP)
        strongest = rng.choice((-1, 1)) / (rng.choice(RADII) * width)
        direction = rng.uniform(0, 2 * np.pi)
        if kind == 'arc':
            # at most five radians: it would close
            curvature = np.full(len(along), np.clip(strongest, -5 / along[-1], 5 / along[-1]))
        elif kind == 'wave':
            curvature = strongest * np.sin(2 * np.pi * (along / along[-1] / rng.uniform(0.5, 2) + rng.random()))
        else:
            curvature = np.zeros(len(along))
        if kind == 'grid':
            direction = np.deg2rad(rng.choice(GRID_DIRECTIONS))
        points = curve(curvature, direction)
        if kind in ('arc', 'wave') and not is_clear(points, width):
            continue
        return drawn(points, width, rng.random(2), flat), float(along[-1]) + (0 if flat else width), float(width)


def by_steps(mask: np.ndarray) -> tuple[float, float]:
    """Length and width as the skeleton's steps and the distance transform have them: half a width is added at each end."""
    distance = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    path, _ = skeleton_path(mask)
    columns, rows = (path - 0.5).astype(int).T
    width = 2 * distance[rows, columns].mean()
    return float(arc_length(path)[-1] + width), float(width)


def errors(made: list[tuple[np.ndarray, float, float]], method: Callable) -> dict:
    found = np.array([method(mask) for mask, *_ in made])
    truth = np.array([true for _, *true in made])
    percent, pixels = 100 * (found[:, 0] / truth[:, 0] - 1), found[:, 1] - truth[:, 1]
    return {
        'length, %: mean': percent.mean(),
        'sd': percent.std(),
        'least': percent.min(),
        'most': percent.max(),
        'beyond 2 %': int((np.abs(percent) > 2).sum()),
        'width, px: mean': pixels.mean(),
        'width sd': pixels.std(),
        'width least': pixels.min(),
        'width most': pixels.max(),
        'beyond 0.5 px': int((np.abs(pixels) > 0.5).sum()),
        'fibers': len(made),
    }


def compact(rng: np.random.Generator, number: int) -> dict:
    """Discs, ellipses and rectangles of 6-40 px: mean and standard deviation of the errors."""
    y, x = np.mgrid[:60, :60] + 0.5
    found = {'disc': [], 'ellipse': [], 'rectangle': []}
    for _ in range(number):
        longer, angle, (across, down) = rng.uniform(3, 20), rng.uniform(0, np.pi), rng.uniform(29.5, 30.5, 2)
        shorter = longer * rng.uniform(0.3, 0.9)
        u = (x - across) * np.cos(angle) + (y - down) * np.sin(angle)
        v = (y - down) * np.cos(angle) - (x - across) * np.sin(angle)
        h = ((longer - shorter) / (longer + shorter)) ** 2
        # Ramanujan 1914, the second formula
        ramanujan = np.pi * (longer + shorter) * (1 + 3 * h / (10 + np.sqrt(4 - 3 * h)))
        for name, mask, area, perimeter, most, least in (
            ('disc', u**2 + v**2 <= longer**2, np.pi * longer**2, 2 * np.pi * longer, 2 * longer, 2 * longer),
            (
                'ellipse',
                (u / longer) ** 2 + (v / shorter) ** 2 <= 1,
                np.pi * longer * shorter,
                ramanujan,
                2 * longer,
                2 * shorter,
            ),
            (
                'rectangle',
                (np.abs(u) <= longer) & (np.abs(v) <= shorter),
                4 * longer * shorter,
                4 * (longer + shorter),
                2 * np.hypot(longer, shorter),
                2 * shorter,
            ),
        ):
            shape = measure(coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))))
            found[name].append(
                (
                    100 * (shape.area / area - 1),
                    100 * (shape.perimeter / perimeter - 1),
                    shape.feret_max - most,
                    shape.feret_min - least,
                    shape.circularity - 4 * np.pi * area / perimeter**2,
                )
            )
    names = ('area, %', 'perimeter, %', 'feret_max, px', 'feret_min, px', 'circularity')
    return {
        shape: {
            name: {'mean': mean, 'sd': sd} for name, mean, sd in zip(names, np.mean(rows, 0), np.std(rows, 0), strict=True)
        }
        for shape, rows in found.items()
    }


def milliseconds(rles: list[dict], rounds: int = 3) -> float:
    times = []
    for _ in range(rounds):
        start = time.process_time()
        for rle in rles:
            measure(rle)
        times.append((time.process_time() - start) / len(rles) * 1e3)
    return min(times)


def times(rng: np.random.Generator) -> dict:
    def encoded(mask: np.ndarray) -> dict:
        whole = np.zeros((2048, 2048), np.uint8)
        y, x = rng.integers(0, 2048 - np.array(mask.shape), endpoint=True)
        whole[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
        return coco_mask.encode(np.asfortranarray(whole))

    fibers = [encoded(fiber(rng, kind)[0]) for kind in ('arc', 'wave', 'straight') for _ in range(60)]
    y, x = np.mgrid[:1000, :1000]
    discs = {side: encoded(np.hypot(y - side / 2, x - side / 2)[:side, :side] < side / 2) for side in (30, 1000)}
    return {
        'fiber of 40-300 px, ms': milliseconds(fibers),
        'disc of 30 px, ms': milliseconds([discs[30]] * 30),
        'disc of 1000 px, ms': milliseconds([discs[1000]]),
    }


def rounded(record: object) -> object:
    if isinstance(record, dict):
        return {name: rounded(value) for name, value in record.items()}
    return round(float(record), 3) if isinstance(record, float) else record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--fibers', type=int, default=1000, help='of each kind')
    parser.add_argument('--out', type=Path, default=Path(__file__).with_suffix('.json'))
    arguments = parser.parse_args()
    record = {'seed': 0, 'fibers': {}, 'steps and distance transform': {}}
    for name, kind, flat in (
        ('arcs, round ends', 'arc', False),
        ('waves, round ends', 'wave', False),
        ('straight, any direction, round ends', 'straight', False),
        ('straight at 0, 22.5, 45, 67.5, 90 degrees, round ends', 'grid', False),
        ('arcs, flat ends', 'arc', True),
        ('waves, flat ends', 'wave', True),
        ('straight, any direction, flat ends', 'straight', True),
    ):
        rng = np.random.default_rng(0)
        made = [fiber(rng, kind, flat) for _ in range(arguments.fibers)]
        record['fibers'][name] = errors(made, length_and_width)
        if not flat:
            record['steps and distance transform'][name] = errors(made, by_steps)
        console().print(name, rounded(record['fibers'][name]))
    record['compact objects'] = compact(np.random.default_rng(0), 300)
    record['time'] = times(np.random.default_rng(0))
    record = rounded(record)
    console().print(record)
    arguments.out.write_text(json.dumps(record, indent=2) + '\n')


if __name__ == '__main__':
    main()
