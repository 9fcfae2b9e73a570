"""How even are folds of images with several classes each? Three ways to cut the same made files into five folds.

    python benchmarks/folds_balance.py

- ours: `mmext kfold`, every instance a sample of scikit-learn's StratifiedGroupKFold, and every image one more
- rarest: an image a sample of it, its label the rarest class that it shows
- groups: GroupKFold, which looks at no class

A class has 0.35 times the instances of the one before, and each group has its own mix of them.
A deviation of 20 % says that a fold validates on 24 % of the instances of a class where 20 % would be even.
"""

import argparse
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from mmext.data.coco_file import CocoFile
from mmext.data.folds import assign

FOLDS = 5
# images, classes, groups; as many groups as images: no --group-by
FILES = ((60, 3, 60), (60, 3, 15), (200, 4, 200), (200, 4, 30), (600, 6, 40))


def made_file(images: int, classes: int, groups: int, seed: int) -> tuple[CocoFile, list[str]]:
    """A COCO file without pictures, and the group of each image."""
    rng = np.random.default_rng(seed)
    rates = 3 * 0.35 ** np.arange(classes) * rng.gamma(1, 1, (groups, classes))
    of_group = np.arange(images) if groups == images else np.sort(rng.integers(0, groups, images))
    labels = [(i, label) for i in range(images) for label, n in enumerate(rng.poisson(rates[of_group[i]])) for _ in range(n)]
    annotations = [{'id': n, 'image_id': i, 'category_id': label} for n, (i, label) in enumerate(labels)]
    entries = [{'id': i, 'file_name': f'{i}.png'} for i in range(images)]
    categories = [{'id': label, 'name': str(label)} for label in range(classes)]
    return CocoFile(Path('made'), entries, annotations, categories), [str(group) for group in of_group]


def by_one_label(splitter, coco: CocoFile, groups: list[str]) -> list[int]:
    """The fold of each image by a splitter that takes one label an image: the rarest class that it shows."""
    total = Counter(a['category_id'] for a in coco.annotations)
    shown = [set() for _ in coco.images]
    for annotation in coco.annotations:
        shown[annotation['image_id']].add(annotation['category_id'])
    labels = [min(classes, key=total.get) if classes else -1 for classes in shown]
    folds = np.zeros(len(labels), int)
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='The least populated class')
        for k, (_, held_out) in enumerate(splitter.split(labels, labels, groups)):
            folds[held_out] = k
    return folds.tolist()


def unevenness(coco: CocoFile, folds) -> tuple[float, float, int, float]:
    """Largest and mean deviation over classes (of two instances a fold at least) and folds, how many times a fold has
    nothing of a class, and the largest deviation of the number of images."""
    total = Counter(a['category_id'] for a in coco.annotations)
    there = Counter((a['category_id'], folds[a['image_id']]) for a in coco.annotations)
    apart = [abs(there[label, k] / n * FOLDS - 1) for label, n in total.items() if n >= 2 * FOLDS for k in range(FOLDS)]
    missing = sum(there[label, k] == 0 for label in total for k in range(FOLDS))
    images = Counter(folds)
    return max(apart), float(np.mean(apart)), missing, max(abs(images[k] / len(folds) * FOLDS - 1) for k in range(FOLDS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seeds', type=int, default=20)
    seeds = range(parser.parse_args().seeds)
    print('| images, classes, groups | way | largest deviation | mean deviation | class missing | images |')
    print('| --- | --- | ---: | ---: | ---: | ---: |')
    for size in FILES:
        rows = {'ours': [], 'rarest': [], 'groups': []}
        for seed in seeds:
            coco, groups = made_file(*size, seed)
            rows['ours'].append(unevenness(coco, assign(coco, groups, FOLDS, seed)))
            splitters = {'rarest': StratifiedGroupKFold, 'groups': GroupKFold}
            for name, kind in splitters.items():
                splitter = kind(FOLDS, shuffle=True, random_state=seed)
                rows[name].append(unevenness(coco, by_one_label(splitter, coco, groups)))
        for name, found in rows.items():
            most, mean, missing, images = np.mean(found, 0)
            print(f'| {", ".join(map(str, size))} | {name} | {most:.0%} | {mean:.0%} | {missing:.2f} | {images:.0%} |')


if __name__ == '__main__':
    main()
