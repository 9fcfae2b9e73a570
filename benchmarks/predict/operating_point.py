"""How much better F1 looks at a threshold that was chosen on the very images it is measured on, by simulation.

Made detections of three classes (those of benchmarks/compare/simulation.py, model ``a``: mask AP about 0.45). Of a
population of images some are drawn as the validation; the thresholds of best F1 are chosen on them, as in
mmext/analysis/operating_point.py. F1 is then counted on all images that were not drawn.

- reported: F1 on the validation images, at the thresholds chosen on them;
- on new images: F1 of the same thresholds there, and of 0.5 for every class, which is nearly best for the made scores. Of an
  unsure model, whose scores are the squares of these, the chosen thresholds keep the same detections, and 0.5 others;
- best: F1 on new images of the thresholds that would be best there, which nobody can know.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from mmext.analysis.operating_point import best_cut, threshold_between
from mmext.console import console

sys.path.insert(0, str(Path(__file__).parents[1] / 'compare'))
from simulation import CLASSES, population

SIZES = (10, 20, 50, 200)


def joined(images: list, label: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Score, hit, ignored, best score first, and objects of one class in these images."""
    rows = [image[label] for image in images]
    score, hit, ignored = (np.concatenate([row[i] if i == 0 else row[i][0, 0] for row in rows]) for i in range(3))
    order = np.argsort(-score, kind='stable')
    return score[order], hit[order], ignored[order], sum(int(row[4][0]) for row in rows)


def f1_at(threshold: float, score: np.ndarray, hit: np.ndarray, ignored: np.ndarray, objects: int) -> float:
    """F1 of the detections of this score and more."""
    kept = score >= threshold
    return 2 * int((hit & kept).sum()) / (int((~ignored & kept).sum()) + objects)


def one_draw(images: list, size: int, rng: np.random.Generator) -> list[tuple[float, ...]]:
    """Of each class with a point: F1 reported, and on new images at that threshold, at 0.5, at 0.5 unsure, and the best."""
    drawn = rng.permutation(len(images))
    own, new = ([images[i] for i in part] for part in (drawn[:size], drawn[size:]))
    rows = []
    for label in range(len(CLASSES)):
        score, hit, ignored, objects = joined(own, label)
        if not objects or not hit.any():
            continue
        kept, _, _, reported = best_cut(score, hit, ignored, objects)
        threshold = threshold_between(float(score[kept - 1]), float(score[kept]) if kept < len(score) else 0.0)
        others = joined(new, label)
        rows.append(
            (reported, f1_at(threshold, *others), f1_at(0.5, *others), f1_at(0.5**0.5, *others), best_cut(*others)[3])
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--images', type=int, default=1500, help='in the population')
    parser.add_argument('--draws', type=int, default=200, help='validations of each size')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', type=Path, default=Path(__file__).with_name('operating_point.json'))
    arguments = parser.parse_args()
    images = population(arguments.images, arguments.seed)['a']
    record = {'population': arguments.images, 'draws': arguments.draws, 'images': {}}
    for size in SIZES:
        rng = np.random.default_rng((arguments.seed, size))
        rows = np.array([row for _ in range(arguments.draws) for row in one_draw(images, size, rng)])
        objects = np.mean([sum(int(image[label][4][0]) for image in images) for label in range(len(CLASSES))])
        reported, new, half, unsure, best = rows.T
        lost = reported - new
        record['images'][size] = one = {
            'objects of a class, mean': round(float(objects) * size / arguments.images, 1),
            'reported': round(float(reported.mean()), 3),
            'on new images': round(float(new.mean()), 3),
            '0.5 on new images': round(float(half.mean()), 3),
            '0.5 on new images, unsure': round(float(unsure.mean()), 3),
            'best on new images': round(float(best.mean()), 3),
            'too high by': round(float(lost.mean()), 3),
            'too high by, 5 to 95 %': [round(float(value), 3) for value in np.percentile(lost, (5, 95))],
        }
        console().print(f'{size} images: {one}', soft_wrap=True)
    arguments.out.write_text(json.dumps(record, indent=2) + '\n')


if __name__ == '__main__':
    main()
