"""Plant 20 faults in made data, one a file, and print who names them: ``python benchmarks/check/faults.py``.

Ours is ``check_file`` and ``check_masks``; beside it ``hotcoco.COCO.healthcheck()`` where hotcoco can be imported
(``pip install --no-deps --target DIR hotcoco==1.3.0`` and ``PYTHONPATH=DIR``): it is no dependency of ours.
"""

import argparse
import copy
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from rich.table import Table

from mmext.analysis.findings import is_problem
from mmext.console import console
from mmext.data.demo import PARTICLES, write_part
from mmext.data.file_checks import check_file
from mmext.data.mask_checks import check_masks
from mmext.errors import InputError

IMAGES = 12
CLASSES = tuple(PARTICLES)


def made_document(folder: Path) -> dict:
    """A sound COCO file of made images in ``folder``."""
    for _ in write_part(folder, IMAGES, (7, 0)):
        pass
    return json.loads((folder / 'annotations.json').read_text())


def victim(document: dict) -> dict:
    """The annotation to spoil: a fragment of some size, away from the edge of its image."""

    def free(annotation: dict) -> bool:
        x, y, width, height = annotation['bbox']
        return min(x, y) > 20 and max(x + width, y + height) < 236 and annotation['area'] > 300

    fragments = [a for a in document['annotations'] if a['category_id'] == 2 and free(a)]
    return next(a for a in fragments if len(a['segmentation'][0]) >= 10)


def set_on_victim(**fields: object) -> Callable[[dict], None]:
    return lambda document: victim(document).update(fields)


def image_id_twice(document: dict) -> None:
    document['images'][1]['id'] = document['images'][0]['id']


def annotation_id_twice(document: dict) -> None:
    document['annotations'][1]['id'] = document['annotations'][0]['id']


def near_duplicate(document: dict) -> None:
    spoilt = copy.deepcopy(victim(document))
    spoilt['id'] = len(document['annotations']) + 1
    spoilt['segmentation'] = [[value + 0.3 for value in spoilt['segmentation'][0]]]
    spoilt['bbox'] = [spoilt['bbox'][0] + 0.3, spoilt['bbox'][1] + 0.3, *spoilt['bbox'][2:]]
    document['annotations'].append(spoilt)


def crossing(document: dict) -> None:
    polygon = victim(document)['segmentation'][0]
    polygon[2:4], polygon[4:6] = polygon[4:6], polygon[2:4]


def outside(document: dict) -> None:
    spoilt = victim(document)
    spoilt['segmentation'] = [[value + 1000 for value in spoilt['segmentation'][0]]]
    spoilt['bbox'] = [spoilt['bbox'][0] + 1000, spoilt['bbox'][1] + 1000, *spoilt['bbox'][2:]]


def box_of_elsewhere(document: dict) -> None:
    spoilt = victim(document)
    spoilt['bbox'] = [spoilt['bbox'][0] + 15, *spoilt['bbox'][1:]]


def shrunken(document: dict) -> None:
    """Mask scaled to half its side in the middle of its box; box and area stay."""
    spoilt = victim(document)
    x, y, width, height = spoilt['bbox']
    middle = (x + width / 2, y + height / 2)
    polygon = spoilt['segmentation'][0]
    spoilt['segmentation'] = [[middle[i % 2] + (value - middle[i % 2]) / 2 for i, value in enumerate(polygon)]]


def empty_image(document: dict) -> None:
    image_id = document['images'][0]['id']
    document['annotations'] = [a for a in document['annotations'] if a['image_id'] != image_id]


def without_segmentation(document: dict) -> None:
    del victim(document)['segmentation']


# fault: how it is planted, the code that must name it
FAULTS: dict[str, tuple[Callable[[dict], None], str]] = {
    'image id twice': (image_id_twice, 'image-id-twice'),
    'annotation id twice': (annotation_id_twice, 'annotation-id-twice'),
    'annotation of an image that is not there': (set_on_victim(image_id=999), 'annotation-without-image'),
    'category that is not there': (set_on_victim(category_id=9), 'annotation-category-unknown'),
    'category id as text': (set_on_victim(category_id='2'), 'annotation-category-id-wrong'),
    'box of zero width': (set_on_victim(bbox=[50, 50, 0, 20]), 'box-empty'),
    'NaN in a box': (set_on_victim(bbox=[50, float('nan'), 10, 20]), 'annotation-bbox-wrong'),
    'image file missing': (lambda document: document['images'][0].update(file_name='lost.png'), 'image-file-missing'),
    'image without annotation': (empty_image, 'image-without-annotations'),
    'object annotated twice': (near_duplicate, 'instance-twice'),
    'no mask': (without_segmentation, 'mask-missing'),
    'empty mask': (set_on_victim(segmentation=[]), 'mask-empty'),
    'polygon of 2 points': (set_on_victim(segmentation=[[50, 50, 60, 60]]), 'polygon-too-few-points'),
    'odd number of coordinates': (
        lambda document: victim(document)['segmentation'][0].pop(),
        'polygon-odd-coordinates',
    ),
    'outline crosses itself': (crossing, 'polygon-crosses-itself'),
    'mask outside the image': (outside, 'mask-outside-image'),
    'broken RLE': (set_on_victim(segmentation={'size': [256, 256], 'counts': [500, 20, 9000]}), 'rle-counts-wrong'),
    'box not of the mask': (box_of_elsewhere, 'box-not-of-mask'),
    'area not of the mask': (
        lambda document: victim(document).update(area=2 * victim(document)['area']),
        'area-not-of-mask',
    ),
    'mask shrunken by half': (shrunken, 'mask-smaller-than-box'),
}


def ours(path: Path, folder: Path) -> tuple[list[str], bool]:
    """Codes of our findings, and whether any is above information."""
    try:
        coco, findings = check_file(path, folder, 'train', CLASSES)
    except InputError as error:
        return [str(error)], True
    if coco is not None:
        findings += check_masks(coco, 'train')
    return [finding.code for finding in findings], is_problem(findings)


def theirs(path: Path) -> list[str] | None:
    """Codes of hotcoco's findings; None when it cannot be imported."""
    try:
        import hotcoco
    except ImportError:
        return None
    try:
        report = hotcoco.COCO(str(path)).healthcheck()
    except Exception as error:  # whatever it raises is its answer
        return [f'refused: {str(error).splitlines()[0]}'[:80]]
    empty = report['summary']['images_without_annotations']
    numbers = ['summary: 1 image without annotations'] if empty else []
    return [entry['code'] for entry in report['errors'] + report['warnings']] + numbers


def kind_of_answer(answer: list[str] | None) -> str:
    """How hotcoco answered: ``named``, ``refused`` (a parse error), ``summary`` (a number there), ``silent``."""
    if answer is None:
        return 'not installed'
    if not answer:
        return 'silent'
    return next((word for word in ('refused', 'summary') if all(entry.startswith(word) for entry in answer)), 'named')


def run(root: Path) -> dict:
    """Plant each fault and collect both answers."""
    folder = root / 'images'
    document = made_document(folder)
    path = root / 'clean.json'
    path.write_text(json.dumps(document))
    codes, problem = ours(path, folder)
    usual = theirs(path)
    rows = []
    for fault, (plant, code) in FAULTS.items():
        spoilt = copy.deepcopy(document)
        plant(spoilt)
        path = root / 'spoilt.json'
        path.write_text(json.dumps(spoilt))
        found, answer = ours(path, folder)[0], theirs(path)
        new = None if answer is None else [entry for entry in answer if entry not in usual]
        rows.append({'fault': fault, 'expected': code, 'ours': found, 'named': code in found, 'hotcoco': new})
    clean = {'ours': codes, 'ours_above_information': problem, 'hotcoco': usual}
    return {'clean': clean, 'faults': rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', type=Path, default=Path(__file__).with_name('faults.json'))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        record = run(Path(root))
    table = Table('planted fault', 'mmext check', 'hotcoco healthcheck (what the clean file has not)')
    for row in record['faults']:
        answer = 'not installed' if row['hotcoco'] is None else ', '.join(row['hotcoco']) or '-'
        table.add_row(row['fault'], ', '.join(row['ours']) if row['named'] else f'MISSED {row["ours"]}', answer)
    clean = record['clean']
    answer = 'not installed' if clean['hotcoco'] is None else ', '.join(clean['hotcoco']) or '-'
    table.add_row('none (clean file)', ', '.join(clean['ours']) or '-', answer)
    console().print(table)
    total = len(record['faults'])
    answers = Counter(kind_of_answer(row['hotcoco']) for row in record['faults'])
    console().print(f'mmext check named {sum(row["named"] for row in record["faults"])} of {total}.')
    console().print(f'hotcoco: {", ".join(f"{kind} {count}" for kind, count in answers.items())}.')
    arguments.out.write_text(json.dumps(record, indent=2) + '\n')


if __name__ == '__main__':
    main()
