"""Made validations of models whose true difference is known: do the verdicts of `mmext compare` hold?
``python benchmarks/compare/simulation.py [--pairs 200] [--images 4000] [--out FILE]``, on one core.

A population of images is made once, as tables of IoUs and scores, and matched by ``mmext.analysis.coco_ap``. Images differ
in number of objects, classes and difficulty; objects in size and difficulty; what makes an image hard, is so for all models.
Of three models two are equally good, with errors of their own, and one is better. A pair of validations is a sample of the
population, drawn with replacement, so the truth is the difference of the mask APs on the whole of it. For equal models it is
exactly 0: each image is there twice, with the roles of the two exchanged.

- Coverage: how often the 95 % interval holds the truth. False alarms: how often equal models are called different.
- The same for plain percentiles, and for the way that counts an image drawn twice only once.
- The number of images that would tell: forecast of each pair of 60 images for the true difference, against the number at
  which four of five pairs are told apart, by the shares at several numbers (a probit line in the square root of the number).
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import numpy as np

from mmext.analysis.bootstrap import CANNOT_BE_TOLD, Difference, needed_for, over_images, resampled
from mmext.analysis.coco_ap import Matches, average_precision, join_images, match_class, mean_of
from mmext.console import console

SIZES = (15, 60, 200)
# of whose pairs the forecast is made
PILOT = 60
CLASSES = ('Fiber', 'Fragment', 'Film')
# how much better each is, in units of the spread of difficulty between objects; a and its equal differ in their errors only
MODELS = {'a': 0.0, 'equal': 0.0, 'better': 0.15}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def made_image(rng: np.random.Generator) -> dict[str, list[tuple]]:
    """One image: for each model the scores of each class, and what :func:`match_class` gives of its masks."""
    hardness = rng.normal(0, 0.7)
    count = 1 + min(rng.negative_binomial(2, 2 / 9), 39)
    labels = rng.choice(len(CLASSES), count, p=rng.dirichlet((1.0, 0.7, 0.5)))
    areas = np.exp(rng.normal(np.log(40**2), 1.0, count))
    own = rng.normal(0, 1, count)
    found = {}
    for model, quality in MODELS.items():
        z = quality + 0.4 * (np.log(areas) - np.log(40**2)) - 0.5 * hardness - 0.8 * own + 0.5 * rng.normal(size=count)
        boxes = 0.3 + 0.7 * sigmoid(1.2 + 0.8 * z + 0.5 * rng.normal(size=count))
        masks = np.clip(boxes - 0.04 + 0.06 * rng.normal(size=count), 0, 1)
        scores = sigmoid(1.5 + 1.2 * z + 0.8 * rng.normal(size=count))
        seen = np.flatnonzero(rng.random(count) < sigmoid(2 + 1.5 * z))
        twice = seen[rng.random(len(seen)) < 0.1]
        false = rng.poisson(1.5 * np.exp(0.5 * hardness))
        source = np.concatenate([seen, twice, rng.integers(0, count, false)])
        kinds = np.repeat([0, 1, 2], [len(seen), len(twice), false])
        shrink = np.choose(kinds, [1.0, 0.85, 0.4 * rng.random(len(source))])
        confidence = np.choose(kinds, [scores[source], 0.6 * scores[source], sigmoid(rng.normal(-1.5, 1.0, len(source)))])
        sizes = areas[source] * np.exp(0.1 * rng.normal(size=len(source)))
        rows = []
        for label in range(len(CLASSES)):
            objects, chosen = np.flatnonzero(labels == label), np.flatnonzero(labels[source] == label)
            chosen = chosen[np.argsort(-confidence[chosen], kind='stable')]
            table = np.where(source[chosen, None] == objects, (masks[source] * shrink)[chosen, None], 0)
            matched = match_class(table, areas[objects], np.zeros(len(objects), bool), sizes[chosen])
            rows.append((confidence[chosen], *matched))
        found[model] = rows
    return found


def population(images: int, seed: int) -> dict[str, list[list[tuple]]]:
    """Of every model, the made images."""
    rng = np.random.default_rng(seed)
    made = [made_image(rng) for _ in range(images)]
    return {model: [image[model] for image in made] for model in MODELS}


def joined(images: list[list[tuple]]) -> Matches:
    """The matches on these images, one of which may be there several times."""
    by_class = []
    for label in range(len(CLASSES)):
        rows = [image[label] for image in images]
        parts = [(np.full(len(row[0]), place), *row[:-1]) for place, row in enumerate(rows)]
        by_class.append(join_images(parts, np.stack([row[-1] for row in rows], 1).astype(np.int32)))
    return Matches(len(images), CLASSES, tuple(by_class))


def ap(matches: Matches, weights: np.ndarray | None = None) -> np.ndarray:
    """AP over all sizes (B,)."""
    return mean_of(average_precision(matches, weights, areas=1)[:, 0])


def judged(
    images: tuple[list, list], size: int, rng: np.random.Generator, weights: np.ndarray, naive: bool
) -> dict[str, Difference]:
    """What each way says of a pair of validations on ``size`` images; ``naive``: that of counting an image once too."""
    drawn = rng.integers(0, len(images[0]), size)
    first, second = (joined([side[i] for i in drawn]) for side in images)
    value = float((ap(second) - ap(first))[0])
    draws = ap(second, weights) - ap(first, weights)
    low, high = np.quantile(draws, (0.025, 0.975))
    found = {'mmext': over_images(value, draws, size)}
    found['plain percentiles'] = replace(found['mmext'], low=float(low), high=float(high))
    if naive:
        once = np.minimum(weights, 1)
        low, high = np.quantile(ap(second, once) - ap(first, once), (0.025, 0.975))
        found['drawn twice, counted once'] = replace(found['mmext'], low=float(low), high=float(high))
    return found


def summary(found: list[Difference], truth: float) -> dict[str, float]:
    """How often the interval holds the truth, how often it tells a difference, how wide it is."""
    told = sum(one.verdict != CANNOT_BE_TOLD for one in found) / len(found)
    held = sum(one.low <= truth <= one.high for one in found) / len(found)
    return {
        'coverage': round(held, 4),
        'told different': round(told, 4),
        'mean width': round(float(np.mean([one.high - one.low for one in found])), 4),
    }


def number_that_tells(shares: dict[int, float]) -> float:
    """The number of images at which four of five pairs are told apart, by the shares told at several numbers."""
    inside = {size: min(max(share, 0.005), 0.995) for size, share in shares.items()}
    slope, base = np.polyfit([size**0.5 for size in inside], [NormalDist().inv_cdf(one) for one in inside.values()], 1)
    return ((NormalDist().inv_cdf(0.8) - base) / slope) ** 2


def needed(found: dict[tuple[int, str], list[Difference]], truth: float) -> dict:
    """Forecast of the number of images that would tell the true difference, and that number by simulation."""
    told = {
        size: sum(one.verdict != CANNOT_BE_TOLD for one in found[size, 'better']) / len(found[size, 'better'])
        for size in SIZES
    }
    forecasts = [needed_for(truth, one.error, PILOT) for one in found[PILOT, 'better']]
    low, middle, high = np.percentile([one for one in forecasts if one], (10, 50, 90))
    simulated = number_that_tells(told)
    return {
        'told apart at': told,
        'simulated': round(simulated),
        'forecast, median': round(middle),
        'forecast, 10 to 90 %': [round(low), round(high)],
        'forecast / simulated': round(float(middle) / simulated, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--pairs', type=int, default=200, help='pairs of equal and of different models at each number of images'
    )
    parser.add_argument('--images', type=int, default=4000, help='in the population')
    parser.add_argument('--resamples', type=int, default=1000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', type=Path, default=Path(__file__).with_name('simulation.json'))
    arguments = parser.parse_args()
    start = time.process_time()
    made = population(arguments.images, arguments.seed)
    sides = {'equal': (made['a'] + made['equal'], made['equal'] + made['a']), 'better': (made['a'], made['better'])}
    whole = {model: float(ap(joined(images))[0]) for model, images in made.items()}
    truth = {'equal': 0.0, 'better': whole['better'] - whole['a']}
    record = {
        'population': {'images': arguments.images, 'mask AP': {name: round(value, 4) for name, value in whole.items()}},
        'true difference': round(truth['better'], 4),
        'pairs': arguments.pairs,
        'resamples': arguments.resamples,
        'at': {},
    }
    found: dict[tuple[int, str], list[dict[str, Difference]]] = {}
    for size in SIZES:
        weights = resampled(size, arguments.resamples)
        record['at'][size] = {}
        for other, pair in sides.items():
            rng = np.random.default_rng((arguments.seed, size, len(other)))
            rows = [judged(pair, size, rng, weights, other == 'equal') for _ in range(arguments.pairs)]
            found[size, other] = [row['mmext'] for row in rows]
            one = {name: summary([row[name] for row in rows], truth[other]) for name in rows[0]}
            spread = float(np.std([each.value for each in found[size, other]], ddof=1))
            error = float(np.mean([each.error for each in found[size, other]]))
            one['standard error'] = {'of the values': round(spread, 4), 'mean of mmext': round(error, 4)}
            record['at'][size][other] = one
            console().print(f'{size} images, {other}: {one}, {time.process_time() - start:.0f} s', soft_wrap=True)
    record['images that would tell'] = needed(found, truth['better'])
    console().print(record['images that would tell'], soft_wrap=True)
    arguments.out.write_text(json.dumps(record, indent=2) + '\n')


if __name__ == '__main__':
    main()
