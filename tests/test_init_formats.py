"""From the files of each annotation tool through ``mmext init`` to a config that loads, as docs/your-data.md says."""

import dataclasses
import json
import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from format_files import (
    CLASSES,
    coco_document,
    cvat_text,
    label_map,
    mask_of,
    some_scenes,
    via_document,
    write_class_folders,
    write_images,
    write_labelme,
    write_map,
    write_yolo,
)

from mmext.cli import cli
from mmext.data.coco_file import read_coco

PAGE = (Path(__file__).parents[1] / 'docs' / 'your-data.md').read_text()
SECTIONS = {
    heading: commands
    for heading, _, body in (part.partition('\n') for part in PAGE.split('\n## ')[1:])
    if (commands := [shlex.split(line) for line in re.findall(r'(?m)^mmext init .*$', body)])
}
SCENES = some_scenes(8, samples=4)
# sections about COCO files, of which no class is told
AS_THEY_ARE = ('COCO', 'No validation part', 'COCO of CVAT', 'Images of more than 8 bits', 'Images of many channels')
AS_THEY_ARE += ('Very large images', 'Many objects')


def by_value(folder):
    """Numbers of classes, with a table."""
    for scene in SCENES:
        values = np.zeros((scene.height, scene.width), np.uint8)
        for one in scene.objects:
            values[mask_of(one, scene)] = CLASSES.index(one.name) + 1
        write_map(folder / 'masks' / scene.file_name, values)
    (folder / 'masks/classes.csv').write_text('value,class\n' + ''.join(f'{i},{n}\n' for i, n in enumerate(CLASSES, 1)))


def yolo_parts(folder):
    for part, scenes in (('train', SCENES[:5]), ('val', SCENES[5:])):
        write_images(folder / 'images' / part, scenes)
        write_yolo(folder / 'labels' / part, scenes)
        for file in (folder / 'labels' / part / 'labels').iterdir():
            file.rename(folder / 'labels' / part / file.name)
        (folder / 'labels' / part / 'data.yaml').rename(folder / 'data.yaml')


def coco_parts(folder, change=None):
    for part, scenes in (('train', SCENES[:5]), ('val', SCENES[5:])):
        write_images(folder / 'images' / part, scenes)
        for path in (folder / 'images' / part).iterdir() if change else ():
            change(path)
        (folder / 'ann').mkdir(exist_ok=True)
        (folder / 'ann' / f'{part}.json').write_text(json.dumps(coco_document(scenes)))


def deeper(path):
    """The image in 12 of 16 bits."""
    cv2.imwrite(str(path), cv2.imread(str(path)).astype(np.uint16) * 14 + 200)


def five_channels(folder):
    tiffs = [dataclasses.replace(scene, file_name=scene.file_name.replace('.png', '.tif')) for scene in SCENES]
    (folder / 'ann.json').write_text(json.dumps(coco_document(tiffs)))
    (folder / 'images').mkdir()
    for scene in tiffs:
        pixels = np.random.default_rng(0).integers(0, 4096, (5, scene.height, scene.width)).astype(np.uint16)
        tifffile.imwrite(folder / 'images' / scene.file_name, pixels, imagej=True, metadata={'axes': 'CYX'})


def slides(folder):
    """Each image in the corner of a large one, so that no tile cuts an object."""
    large = [dataclasses.replace(scene, file_name=f'{scene.file_name}.tif', width=2000, height=1900) for scene in SCENES]
    (folder / 'ann.json').write_text(json.dumps(coco_document(large)))
    (folder / 'slides').mkdir()
    for scene in large:
        tifffile.imwrite(folder / 'slides' / scene.file_name, np.zeros((1900, 2000), np.uint8), tile=(256, 256))


def write_json(name, document):
    return lambda folder: (folder / name).write_text(json.dumps(document))


def numbered(folder):
    for scene in SCENES:
        write_map((folder / 'masks' / scene.file_name).with_suffix('.tif'), label_map(scene, scene.objects))


FILES = {
    'No validation part': write_json('ann.json', coco_document(SCENES)),
    'COCO': coco_parts,
    'COCO of CVAT': write_json('instances.json', coco_document(SCENES, crowd=True)),
    'Label maps': numbered,
    'Label maps in a folder for each class': lambda folder: write_class_folders(folder / 'masks', SCENES),
    'Label maps with a table of values': by_value,
    'YOLO segmentation': yolo_parts,
    'LabelMe': lambda folder: write_labelme(folder / 'labelme', SCENES),
    'CVAT for images': lambda folder: (folder / 'annotations.xml').write_text(cvat_text(SCENES)),
    'VGG Image Annotator': write_json('via.json', via_document(SCENES)),
    'Images of more than 8 bits': lambda folder: coco_parts(folder, deeper),
    'Images of many channels': five_channels,
    'Very large images': slides,
    'Many objects': coco_parts,
}


def init(*words, status=0):
    done = CliRunner().invoke(cli, ['init', *map(str, words)])
    if status:
        assert done.exception is not None
        return str(done.exception) + done.output
    assert done.exception is None, done.exception
    return done.output


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_section_of_the_page_is_tried():
    assert list(SECTIONS) == list(FILES)
    assert all(len(commands) == 1 for commands in SECTIONS.values())


@pytest.mark.parametrize('heading', FILES)
def test_commands_of_the_page(here, heading):
    from mmengine.config import Config

    FILES[heading](here)
    if not (here / 'images').exists():
        write_images(here / 'images', SCENES)
    before = {path: path.read_bytes() for path in here.rglob('*') if path.is_file()}
    (command,) = SECTIONS[heading]
    output = init(*command[2:])
    assert all(path.read_bytes() == content for path, content in before.items())  # nothing of the person's is changed
    cfg = Config.fromfile(here / 'my.py')
    names = ('cell',) if '--class-name' in command else CLASSES
    counts = {}
    for part in ('train', 'val'):
        dataset = cfg[f'{part}_dataloader'].dataset
        coco = read_coco(dataset.ann_file)
        assert all(Path(dataset.data_prefix.img, image['file_name']).is_file() for image in coco.images)
        assert not any(annotation['iscrowd'] for annotation in coco.annotations)
        counts[part] = len(coco.annotations), {image['file_name'].partition('_')[0] for image in coco.images}
        assert set(coco.classes) == set(cfg.class_names) == set(names)
    assert cfg.model.roi_head.mask_head.num_classes == len(names)
    assert sum(number for number, _ in counts.values()) == sum(len(scene.objects) for scene in SCENES)
    if '--group-by' in command:
        assert counts['train'][1].isdisjoint(counts['val'][1])
    if heading not in AS_THEY_ARE:
        for name in names:
            assert re.search(rf'(?m)^    {name}: .+: \d+ objects in \d+ images$', output)


def test_twice_the_same_bytes_and_nothing_of_a_persons_is_written_over(here):
    FILES['LabelMe'](here)
    write_images(here / 'images', SCENES)
    words = SECTIONS['LabelMe'][0][2:]
    init(*words)
    first = {path.name: path.read_bytes() for path in here.glob('my*')}
    assert set(first) == {'my.py', 'my_train_annotations.json', 'my_val_annotations.json'}
    assert 'my.py is there already' in init(*words, status=2)
    init(*words, '--force')
    assert {path.name: path.read_bytes() for path in here.glob('my*')} == first
    (here / 'my_val_annotations.json').write_text('{"mine": true}')
    assert 'was not written by `mmext init`' in init(*words, '--force', status=2)
    assert (here / 'my_val_annotations.json').read_text() == '{"mine": true}'
    assert (here / 'my.py').read_bytes() == first['my.py']


def test_parts_of_two_formats_have_the_classes_of_both(here):
    write_images(here / 'images', SCENES)
    only_film = some_scenes(2)
    for scene in only_film:
        scene.objects = [one for one in scene.objects if one.name == 'Film']
    write_images(here / 'val', only_film)
    write_labelme(here / 'labelme', only_film)
    (here / 'a.xml').write_text(cvat_text(SCENES))
    output = init(
        '--train', 'a.xml', 'images', '--val', 'labelme', 'val', '--recipe', 'mask-rcnn_r18_fpn_finetune', '--out', 'my.py'
    )
    assert read_coco(here / 'my_val_annotations.json').classes == read_coco(here / 'my_train_annotations.json').classes
    assert 'Fiber has no object to validate on' in output


def test_split_shows_a_table_and_keeps_samples_whole(here):
    FILES['No validation part'](here)
    write_images(here / 'images', SCENES)
    words = ['--train', 'ann.json', 'images', '--recipe', 'mask-rcnn_r18_fpn_finetune', '--out', 'my.py']
    output = init(*words, '--split', '0.25', '--group-by', '(.*)_frame')
    table = [line.split() for line in output.splitlines() if line.strip().startswith(('part', 'train ', 'val '))]
    assert table == [
        ['part', 'images', 'samples', 'Film', 'Fiber'],
        ['train', '6', '3', '12', '6'],
        ['val', '2', '1', '4', '2'],
    ]
    halves = init(*words, '--split', '0.5', '--force')
    assert '--group-by' in halves  # a hint, since each image is its own sample
    assert len(read_coco(here / 'my_val_annotations.json').images) == 4


def test_mistakes_of_the_call(here):
    FILES['LabelMe'](here)
    write_images(here / 'images', SCENES)
    words = ['--train', 'labelme', 'images', '--recipe', 'mask-rcnn_r18_fpn_finetune', '--out', 'my.py']
    assert "Missing option '--val' or --split" in init(*words, status=2)
    assert 'exclude each other' in init(*words, '--val', 'labelme', 'images', '--split', '0.2', status=2)
    assert '--group-by says how to --split' in init(*words, '--val', 'a', 'b', '--group-by', 'x', status=2)
    assert 'finds no group in 8 of 8' in init(*words, '--split', '0.2', '--group-by', 'film(.)', status=2)
    assert 'has 1 sample by' in init(*words, '--split', '0.2', '--group-by', 'slide', status=2)
    assert not list(here.glob('my*'))


def test_faults_of_both_parts_come_at_once_with_exit_code_2(run_command, tmp_path):
    write_images(tmp_path / 'images', SCENES)
    (tmp_path / 'a.xml').write_text(cvat_text(SCENES)[:-40])
    (tmp_path / 'labelme').mkdir()
    words = ['init', '--train', 'a.xml', 'images', '--val', 'labelme', 'images', '--out', 'my.py']
    done = run_command('mmext', *words, '--recipe', 'mask-rcnn_r18_fpn_finetune', status=2)
    assert 'a.xml: not whole XML' in done.stdout
    assert 'labelme: no annotations of a known format' in done.stdout
    assert 'Traceback' not in done.stdout


def test_holes_reach_the_training(here):
    from mmengine.config import Config
    from mmengine.registry import DATASETS, init_default_scope

    write_images(here / 'images', SCENES[:2])
    mask = np.zeros((60, 70), np.uint16)
    mask[10:30, 10:30], mask[15:25, 15:25], mask[40:50, 40:60] = 1, 0, 1
    for scene in SCENES[:2]:
        write_map(here / 'masks' / scene.file_name, mask)
    init(
        '--train', 'masks', 'images', '--val', 'masks', 'images', '--recipe', 'mask-rcnn_r18_fpn_finetune', '--out', 'my.py'
    )
    init_default_scope('mmdet')
    cfg = Config.fromfile(here / 'my.py').train_dataloader.dataset
    cfg.pipeline = [one for one in cfg.pipeline if one.type in ('LoadImageFromFile', 'mmext.LoadInstanceMasks')]
    results = DATASETS.build(cfg)[0]
    assert (results['gt_masks'].to_ndarray() == (mask[None] > 0)).all()
