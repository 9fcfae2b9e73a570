"""Made images as large as a microscope's, with as many objects as one wants: scenes of the demo side by side."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from mmext.data.demo import PARTICLES, SIDE, coco_shape, make_image


def write_large(folder: Path, images: int, seed: Sequence[int], rows: int = 4, columns: int = 5, per_scene: int = 1) -> Path:
    """Images of rows x columns scenes of 256 x 256, with ``per_scene`` objects in each, the classes in turn.

    Returns:
        The COCO file, ``annotations.json`` in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = list(PARTICLES)
    size = {'width': columns * SIDE, 'height': rows * SIDE}
    entries, annotations = [], []
    for number in range(images):
        picture = np.empty((size['height'], size['width'], 3), np.uint8)
        for scene in range(rows * columns):
            top, left = scene // columns * SIDE, scene % columns * SIDE
            chosen = [names[(scene + place) % len(names)] for place in range(per_scene)]
            kinds = {
                name: (draw, (chosen.count(name),) * 2, *rest)
                for name, (draw, _, *rest) in PARTICLES.items()
                if name in chosen
            }
            part, objects = make_image(np.random.default_rng([*seed, number, scene]), kinds)
            picture[top : top + SIDE, left : left + SIDE] = part
            for label, outline in objects:
                annotations.append(
                    {
                        'id': len(annotations) + 1,
                        'image_id': number + 1,
                        'category_id': names.index(list(kinds)[label]) + 1,
                        **coco_shape(outline + np.array((left, top)), **size),
                    }
                )
        name = f'{number:04d}.png'
        cv2.imwrite(str(folder / name), picture)
        entries.append({'id': number + 1, 'file_name': name, **size})
    file = folder / 'annotations.json'
    categories = [{'id': number + 1, 'name': name} for number, name in enumerate(names)]
    file.write_text(json.dumps({'images': entries, 'annotations': annotations, 'categories': categories}))
    return file
