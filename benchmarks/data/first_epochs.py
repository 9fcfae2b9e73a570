"""From the files of each annotation tool to the end of the first epoch, with the commands of docs/your-data.md and no edit.

``python benchmarks/data/first_epochs.py [--data DIR --group-by REGEX] [--formats NAME ...] [--keep DIR] [--out FILE]``

The objects of a COCO folder (`annotations/train.json` and `val.json`, or `train/annotations.json`), by default 80 images of
`mmext demo-data`, are written as each tool writes them. Then, for each format: `mmext init`, `mmext check --images
--show`, and one epoch of `mim train` with its validation, by the demo's recipe. Every object has to arrive: the COCO file of
the config has as many of each class as were written, but for those that a label map cannot hold since others lie on them.
Seconds are those of the whole command, its start included. ``--keep DIR`` keeps files, configs, overlays and logs.
"""

import argparse
import contextlib
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from mmengine.config import Config
from rich.table import Table

from mmext.analysis.mask_window import to_rle
from mmext.console import console
from mmext.data.coco_file import read_coco
from mmext.data.config_data import dataset_of

sys.path.extend(str(Path(__file__).resolve().parents[2] / name) for name in ('tests', 'benchmarks/performance'))
# the writers of the tests, which the conversions are held against
from format_files import (
    Drawn,
    Scene,
    coco_document,
    cvat_text,
    label_map,
    mask_of,
    via_document,
    write_class_folders,
    write_labelme,
    write_map,
    write_yolo,
)
from pycocotools import mask as coco_mask
from side_by_side import coco_parts, machine

RECIPE = 'mask-rcnn_r18_fpn_finetune_differential-10x'
PARTS = ('train', 'val')


def scenes_of(file: Path) -> tuple[list[Scene], list[str]]:
    """Images with their objects, and the classes; crowd regions are left out."""
    coco = read_coco(file)
    names = {category['id']: category['name'] for category in coco.categories}
    found = {image['id']: Scene(image['file_name'], image['width'], image['height'], []) for image in coco.images}
    for one in coco.annotations:
        scene, segmentation = found[one['image_id']], one['segmentation']
        if one.get('iscrowd'):
            continue
        if isinstance(segmentation, list) and len(segmentation) == 1:
            drawn = Drawn(names[one['category_id']], [np.reshape(segmentation[0], (-1, 2)).tolist()])
        else:
            mask = coco_mask.decode(to_rle(segmentation, scene.height, scene.width)).astype(bool)
            drawn = Drawn(names[one['category_id']], mask=mask)
        scene.objects.append(drawn)
    return list(found.values()), list(coco.classes)


def as_masks(scenes: Sequence[Scene]) -> list[Scene]:
    drawn = [[Drawn(one.name, mask=mask_of(one, scene)) for one in scene.objects] for scene in scenes]
    return [Scene(s.file_name, s.width, s.height, objects) for s, objects in zip(scenes, drawn, strict=True)]


def numbered_maps(folder: Path, scenes: list[Scene], names: list[str]) -> None:
    """A map an image, and a table that has the class of each number."""
    rows = ['image,value,class']
    for scene in scenes:
        write_map((folder / scene.file_name).with_suffix('.tif'), label_map(scene, scene.objects))
        rows += [f'{scene.file_name},{number},{one.name}' for number, one in enumerate(scene.objects, 1)]
    (folder / 'objects.csv').write_text('\n'.join(rows) + '\n')


def yolo(folder: Path, scenes: list[Scene], names: list[str]) -> None:
    polygons = [Scene(s.file_name, s.width, s.height, [one for one in s.objects if one.polygons]) for s in scenes]
    write_yolo(folder, polygons, names)


def write_json(path: Path, document: dict) -> None:
    path.write_text(json.dumps(document))


# format: what writes the files into a folder, the name of ANN in it, words of `mmext init` besides
FORMATS: dict[str, tuple[Callable[[Path, list[Scene], list[str]], None], str, tuple[str, ...]]] = {
    'COCO, polygons': (lambda d, s, n: write_json(d / 'ann.json', coco_document(s, names=n)), 'ann.json', ()),
    'COCO, RLE': (lambda d, s, n: write_json(d / 'ann.json', coco_document(as_masks(s), names=n)), 'ann.json', ()),
    'COCO of CVAT, all crowds': (
        lambda d, s, n: write_json(d / 'instances.json', coco_document(as_masks(s), crowd=True, names=n)),
        'instances.json',
        ('--crowd-as-instances',),
    ),
    'Label maps, a table of objects': (lambda d, s, n: numbered_maps(d / 'masks', s, n), 'masks', ()),
    'Label maps, a folder for each class': (lambda d, s, n: write_class_folders(d / 'masks', s, names=n), 'masks', ()),
    'YOLO segmentation': (lambda d, s, n: yolo(d, s, n), 'labels', ()),
    'LabelMe': (lambda d, s, n: write_labelme(d / 'labelme', s), 'labelme', ()),
    'CVAT for images': (lambda d, s, n: (d / 'annotations.xml').write_text(cvat_text(s, n)), 'annotations.xml', ()),
    'VGG Image Annotator': (lambda d, s, n: write_json(d / 'via.json', via_document(s, n)), 'via.json', ()),
}


def run(folder: Path, words: Sequence[str], fine: Sequence[int] = (0,)) -> tuple[float, str]:
    """Seconds of a command of this environment, typed in a folder, and what it printed."""
    program = Path(sys.executable).parent / words[0]
    start = time.perf_counter()
    done = subprocess.run(
        [program, *words[1:]], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode not in fine:
        raise SystemExit(f'{shlex.join(words)}\n{done.stdout}')
    return time.perf_counter() - start, done.stdout


def written(scenes: Sequence[Scene], polygons_alone: bool) -> Counter:
    return Counter(one.name for scene in scenes for one in scene.objects if one.polygons or not polygons_alone)


def arrived(config: Path) -> Counter:
    """Objects of each class that the training and the validation get; before large images are cut into tiles."""
    cfg, found = Config.fromfile(config), Counter()
    for part in PARTS:
        file, whole = Path(dataset_of(cfg, part)['ann_file']), Path(f'{config.stem}_{part}_annotations.json')
        coco = read_coco(whole if file.parent.name.endswith('_tiles') else file)
        names = {category['id']: category['name'] for category in coco.categories}
        found.update(names[one['category_id']] for one in coco.annotations)
    return found


def first_epoch(
    name: str, folder: Path, images: Path, scenes: list[Scene], classes: list[str], group_by: str | None
) -> dict:
    """Files, commands, counts and seconds of a format."""
    write, annotations, words = FORMATS[name]
    folder.mkdir(parents=True)
    write(folder, scenes, classes)
    (folder / 'images').symlink_to(images)
    split = ['--split', '0.25', *(['--group-by', group_by] if group_by else [])]
    init = ['mmext', 'init', '--train', annotations, 'images', *split, *words, '--recipe', RECIPE, '--out', 'my.py']
    check = ['mmext', 'check', 'my.py', '--images', '--show', 'truth']
    train = ['mim', 'train', 'mmdet', 'my.py', '--work-dir', 'work', '--cfg-options', 'train_cfg.max_epochs=1']
    train.append('train_cfg.val_interval=1')
    steps = {}
    for step, command, fine in (('init', init, (0,)), ('check', check, (0, 1)), ('train', train, (0,))):
        steps[step], text = run(folder, command, fine)
        (folder / f'{step}.txt').write_text(text)
    with contextlib.chdir(folder):
        counts = arrived(Path('my.py'))
    expected = written(scenes, polygons_alone=name == 'YOLO segmentation')
    if counts - expected or (expected - counts and not name.startswith('Label maps')):
        raise SystemExit(f'NOT EQUAL: {name}: written {dict(expected)}, arrived {dict(counts)}')
    (log,) = folder.glob('work/*/vis_data/scalars.json')
    last = json.loads(log.read_text().splitlines()[-1])
    return {
        'format': name,
        'files': files_of(folder / annotations),
        'commands': [shlex.join(command) for command in (init, check, train)],
        'written': dict(expected),
        'arrived': dict(counts),
        'seconds': {step: round(value, 1) for step, value in steps.items()},
        'mask_ap': round(last['coco/segm_mAP'], 4),
    }


def files_of(path: Path) -> str:
    if path.is_file():
        return path.name
    kinds = Counter(file.suffix for file in path.rglob('*') if file.is_file())
    return f'{path.name}/: ' + ', '.join(f'{number} {kind}' for kind, number in sorted(kinds.items()))


def gather(data: Path | None, folder: Path) -> tuple[Path, list[Scene], list[str]]:
    """All images of both parts in one folder, their objects, and the classes."""
    if data is None:
        data = folder / 'demo'
        run(folder, ['mmext', 'demo-data', 'demo', '--images', '60', '--val-images', '20', '--seed', '0'])
    images, scenes, classes = folder / 'images', [], []
    images.mkdir()
    for part, (file, place) in coco_parts(data).items():
        found, classes = scenes_of(file)
        for scene in found:
            name = Path(scene.file_name).name
            # both parts of the demo begin with 0001.png
            new = name if not (images / name).exists() else f'{part}_{name}'
            shutil.copy(place / scene.file_name, images / new)
            scene.file_name = new
        scenes += found
    return images, scenes, classes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, help='a COCO folder of your own')
    parser.add_argument('--group-by', help='as of mmext init')
    parser.add_argument('--formats', nargs='+', choices=FORMATS, default=list(FORMATS), metavar='NAME', help='only these')
    parser.add_argument('--keep', type=Path, help='a new folder for files, configs, overlays and logs')
    parser.add_argument('--out', type=Path, default=Path(__file__).with_suffix('.json'))
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = given.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        folder = folder.resolve()
        images, scenes, classes = gather(given.data, folder)
        for place, one in enumerate(given.formats):
            rows.append(first_epoch(one, folder / str(place), images, scenes, classes, given.group_by))
            print(json.dumps(rows[-1]), flush=True)
    table = Table(title='From files to the end of the first epoch', title_justify='left')
    for heading in ('format', 'files', 'objects', 'arrived', 'init', 'check', 'train', 'mask AP'):
        table.add_column(heading)
    for row in rows:
        counts = (str(sum(row[key].values())) for key in ('written', 'arrived'))
        seconds = (f'{value:.0f} s' for value in row['seconds'].values())
        table.add_row(row['format'], row['files'], *counts, *seconds, f'{row["mask_ap"]:.3f}')
    console().print(table)
    document = {'machine': machine(), 'data': given.data.name if given.data else 'demo', 'rows': rows}
    given.out.write_text(json.dumps(document, indent=1) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
