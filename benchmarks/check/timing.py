"""Times of the file and mask checks on made documents: ``python benchmarks/check/timing.py [--most 100000]``.

Run it on one core (``taskset -c 0``, ``OMP_NUM_THREADS=1``). Twenty instances an image of 1024 x 1024, outlines of 60 points
or the RLEs of the same; one in 200 is there twice, so that masks are compared too.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.table import Table

from mmext.console import console
from mmext.data.file_checks import check_file
from mmext.data.mask_checks import check_masks

NUMBERS = (1_000, 10_000, 100_000)
SIDE, PER_IMAGE, POINTS = 1024, 20, 60


def made_document(number: int, rle: bool, seed: int = 0) -> dict:
    """A COCO document of ``number`` wavy disks, without files."""
    from pycocotools import mask as coco_mask

    rng = np.random.default_rng(seed)
    angle = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
    images, annotations = [], []
    for i in range(number):
        image_id = i // PER_IMAGE + 1
        if i % PER_IMAGE == 0:
            images.append({'id': image_id, 'file_name': f'{image_id:06d}.png', 'width': SIDE, 'height': SIDE})
        if i % 200 == 199:
            annotations.append({**annotations[-1], 'id': i + 1})
            continue
        radius = rng.uniform(10, 60) * (1 + 0.2 * np.cos(3 * angle + rng.uniform(0, 6)))
        outline = np.stack([np.cos(angle) * radius, np.sin(angle) * radius], 1) + rng.uniform(80, SIDE - 80, 2)
        outline = np.round(outline, 2)
        polygon = outline.ravel().tolist()
        drawn = coco_mask.frPyObjects([polygon], SIDE, SIDE)[0]
        low, high = outline.min(0), outline.max(0)
        annotations.append(
            {
                'id': i + 1,
                'image_id': image_id,
                'category_id': 1 + i % 3,
                'segmentation': {'size': [SIDE, SIDE], 'counts': drawn['counts'].decode()} if rle else [polygon],
                'bbox': np.round([*low, *(high - low)], 2).tolist(),
                'area': int(coco_mask.area(drawn)),
                'iscrowd': 0,
            }
        )
    categories = [{'id': i + 1, 'name': name} for i, name in enumerate('abc')]
    return {'images': images, 'annotations': annotations, 'categories': categories}


def timed(path: Path, folder: Path) -> tuple[float, float, list[str]]:
    """Processor seconds of check_file and of check_masks, and what they found."""
    start = time.process_time()
    coco, findings = check_file(path, folder, 'train', ('a', 'b', 'c'))
    middle = time.process_time()
    findings += check_masks(coco, 'train')
    return middle - start, time.process_time() - middle, [f'{finding.code}: {finding.count}' for finding in findings]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--most', type=int, default=NUMBERS[-1], help='largest number of instances')
    parser.add_argument('--out', type=Path, default=Path(__file__).with_name('timing.json'))
    arguments = parser.parse_args()
    numbers = [number for number in NUMBERS if number <= arguments.most]
    rows, record = [], {}
    with tempfile.TemporaryDirectory() as root:
        for form in ('polygons', 'RLE'):
            for number in numbers:
                document = made_document(number, form == 'RLE')
                path, folder = Path(root, f'{number}.json'), Path(root, str(number))
                folder.mkdir(exist_ok=True)
                for image in document['images']:
                    (folder / image['file_name']).touch()
                path.write_text(json.dumps(document))
                if not rows:
                    timed(path, folder)  # imports
                rows.append((form, number, path.stat().st_size / 1e6, *timed(path, folder)))
            # growth from ten thousand on, where start-up no longer counts
            last = rows[-2:]
            seconds = [sum(row[3:5]) for row in last]
            growth = np.log(seconds[1] / seconds[0]) / np.log(last[1][1] / last[0][1])
            record[form] = {'exponent': round(float(growth), 3)}
    table = Table('form', 'instances', 'file, MB', 'check_file, s', 'check_masks, s', 'found')
    for form, number, size, of_file, of_masks, found in rows:
        table.add_row(form, f'{number}', f'{size:.1f}', f'{of_file:.2f}', f'{of_masks:.2f}', ', '.join(found))
        record[form][str(number)] = {'check_file_s': round(of_file, 3), 'check_masks_s': round(of_masks, 3)}
    console().print(table)
    for form in ('polygons', 'RLE'):
        console().print(f'{form}: time grows with instances to the power {record[form]["exponent"]:.2f} (last two sizes)')
    arguments.out.write_text(json.dumps(record, indent=2) + '\n')


if __name__ == '__main__':
    main()
