"""Time of a paired bootstrap over images: ``python benchmarks/compare/timing.py [--images 500] [--out FILE]``.

Two made models on images of three classes, some eight objects each (those of ``simulation.py``): from the matches of both to
the intervals of COCO's numbers of average precision, 1,000 resamples; and what reading and matching the predictions of a run
takes. Run it on one core (``taskset -c 0``, ``OMP_NUM_THREADS=1``); processor seconds, best of three.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask
from simulation import CLASSES, joined, population

from mmext.analysis.bootstrap import over_images, resampled
from mmext.analysis.coco_ap import average_precision, match_predictions, numbers, truth_of
from mmext.analysis.predictions import pack, read_predictions
from mmext.console import console
from mmext.data.coco_file import CocoFile

ROUNDS, SIDE = 3, 512


def best_of(run: Callable[[], object]) -> float:
    """Processor seconds of the fastest of three."""
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return round(min(times), 2)


def made_files(images: int, folder: Path, per_image: int = 8, spare: int = 12) -> tuple[CocoFile, Path]:
    """A COCO file of ellipses and the predictions of them, with others that match nothing: 20 detections an image."""
    rng = np.random.default_rng(0)
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    documents, annotations, predictions = [], [], []
    for image_id in range(1, images + 1):
        documents.append({'id': image_id, 'file_name': f'{image_id}.png', 'width': SIDE, 'height': SIDE})
        found = {'image_id': image_id, 'size': (SIDE, SIDE), 'labels': [], 'scores': [], 'boxes': [], 'rles': []}
        for number in range(per_image + spare):
            radius, centre, label = rng.uniform(8, 60, 2), rng.uniform(60, SIDE - 60, 2), int(rng.integers(len(CLASSES)))
            outline = (centre + np.stack([np.cos(angle), np.sin(angle)], 1) * radius).round(1)
            if number < per_image:
                box = [*(centre - radius), *(2 * radius)]
                annotations.append(
                    {
                        'id': len(annotations) + 1,
                        'image_id': image_id,
                        'category_id': label + 1,
                        'bbox': [float(one) for one in box],
                        'area': float(np.pi * radius.prod()),
                        'iscrowd': 0,
                        'segmentation': [outline.ravel().tolist()],
                    }
                )
                outline = outline + rng.normal(0, 2, 2)
            found['labels'].append(label)
            found['scores'].append(rng.random())
            found['boxes'].append([*outline.min(0), *outline.max(0)])
            found['rles'].append(coco_mask.frPyObjects([outline.ravel().tolist()], SIDE, SIDE)[0])
        predictions.append(found)
    file = CocoFile(
        Path('made.json'), documents, annotations, [{'id': k + 1, 'name': name} for k, name in enumerate(CLASSES)]
    )
    path = folder / 'predictions.npz'
    about = {'epoch': 1, 'iteration': 1, 'begin': 0, 'classes': list(CLASSES), 'ann_file': 'made.json', 'sha256': ''}
    path.write_bytes(pack(predictions, about))
    return file, path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--images', type=int, default=500)
    parser.add_argument('--resamples', type=int, default=1000)
    parser.add_argument('--out', type=Path, default=Path(__file__).with_name('timing.json'))
    arguments = parser.parse_args()
    made = population(arguments.images, 0)
    first, second = joined(made['a']), joined(made['better'])
    weights = resampled(arguments.images, arguments.resamples)

    def bootstrap(areas: int) -> None:
        values, draws = (
            [numbers(average_precision(side, each, areas)) for side in (first, second)] for each in (None, weights)
        )
        for name in values[0]:
            over_images(float((values[1][name] - values[0][name])[0]), draws[1][name] - draws[0][name], arguments.images)

    record = {
        'images': arguments.images,
        'resamples': arguments.resamples,
        'detections of both models': sum(len(one.image) for side in (first, second) for one in side.by_class),
        'bootstrap of mask AP, AP50, AP75, s': best_of(lambda: bootstrap(1)),
        'and of small, medium, large, s': best_of(lambda: bootstrap(4)),
    }
    with tempfile.TemporaryDirectory() as folder:
        file, path = made_files(arguments.images, Path(folder))
        record['predictions of a run, bytes'] = path.stat().st_size
        record['reading them, s'] = best_of(lambda: read_predictions(path))
        found = read_predictions(path)
        truth = truth_of(file, found.about['image_ids'], CLASSES)
        for kind in ('bbox', 'segm'):
            record[f'matching {len(found.scores):,} detections, {kind}, s'] = best_of(
                lambda kind=kind: match_predictions(truth, found, kind)
            )
    console().print(record)
    arguments.out.write_text(json.dumps(record, indent=2) + '\n')


if __name__ == '__main__':
    main()
