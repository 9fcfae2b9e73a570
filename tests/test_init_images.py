"""From images of a microscope through ``mmext init`` to what training, validation and prediction see of them."""

import json
import shutil

import cv2
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from format_files import cvat_text, label_map, some_scenes, via_document, write_labelme, write_map, write_yolo
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from mmext.cli import cli
from mmext.data.coco_file import read_coco
from mmext.predict.model_config import microscope_loader
from mmext.predict.model_config import test_pipeline as pipeline_to_predict

RECIPE = 'mask-rcnn_r18_fpn_finetune'


def init(*words, recipe=RECIPE, status=0):
    done = CliRunner().invoke(cli, ['init', *map(str, words), '--recipe', recipe, '--out', 'my.py'])
    if status:
        assert done.exception is not None
        return str(done.exception) + done.output
    assert done.exception is None, done.exception
    return done.output


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    init_default_scope('mmdet')
    return tmp_path


def loaded(part, place=0):
    """Picture and boxes that the pipeline of a part gives, the flip left out."""
    cfg = Config.fromfile('my.py')[f'{part}_dataloader'].dataset
    inner = cfg.dataset if 'dataset' in cfg else cfg
    inner.pipeline = [step for step in inner.pipeline if step.type != 'RandomFlip']
    found = DATASETS.build(cfg)[place]
    return found['inputs'].permute(1, 2, 0).numpy(), found['data_samples'].gt_instances


def sixteen_bits(folder, demo_data, kind):
    """A copy of the demo data in 12 of 16 bits."""
    for part in ('train', 'val'):
        (folder / part).mkdir()
        document = json.loads((demo_data / part / 'annotations.json').read_text())
        for image in document['images']:
            pixels = cv2.imread(str(demo_data / part / image['file_name'])).astype(np.uint16) * 14 + 200
            image['file_name'] = image['file_name'].replace('.png', kind)
            if kind == '.tif':
                tifffile.imwrite(folder / part / image['file_name'], pixels[..., ::-1], photometric='rgb')
            else:
                cv2.imwrite(str(folder / part / image['file_name']), pixels)
        (folder / part / 'annotations.json').write_text(json.dumps(document))
    return [word for part in ('train', 'val') for word in (f'--{part}', f'{part}/annotations.json', part)]


@pytest.mark.parametrize('kind', ['.tif', '.png'])
def test_sixteen_bits_are_as_bright_in_training_validation_and_prediction(here, demo_data, kind):
    output = init(*sixteen_bits(here, demo_data, kind))
    assert '12 of 12 images have more than 8 bits: grey values' in output
    cfg = Config.fromfile('my.py')
    limits = np.array(cfg.load_image.limits)
    train = np.concatenate([cv2.imread(str(path))[..., ::-1].reshape(-1, 3) for path in (demo_data / 'train').glob('*.png')])
    assert limits == pytest.approx(np.percentile(train, (0.1, 99.9), axis=0).T * 14 + 200)
    low, high = (limits.T - 200) / 14
    for part in ('train', 'val'):
        eight = cv2.imread(str(demo_data / part / '0000.png')).astype(float)
        spread = np.clip((eight - low[::-1]) / (high - low)[::-1], 0, 1) * 255
        assert np.abs(loaded(part)[0] - spread).max() <= 0.51
        predicted = microscope_loader(pipeline_to_predict(cfg)[0]).read(here / part / f'0000{kind}')
        assert np.array_equal(predicted, loaded(part)[0])
    words = ' '.join(line.removeprefix('# ') for line in (here / 'my.py').read_text().splitlines())
    assert (
        'the 0.1 and 99.9 percentiles of the 8 such training images, all pixels. Images of 8 bits are never scaled.' in words
    )


def test_eight_bits_are_written_as_before(here, demo_data):
    for part in ('train', 'val'):
        shutil.copytree(demo_data / part, here / part)
    output = init(*[word for part in ('train', 'val') for word in (f'--{part}', f'{part}/annotations.json', part)])
    text = (here / 'my.py').read_text()
    assert 'pipeline' not in text
    assert 'Microscope' not in text
    assert 'bits' not in output
    assert Config.fromfile('my.py').train_dataloader.dataset.pipeline[0].type == 'LoadImageFromFile'


SCENES = some_scenes(6)


def many_channels(folder):
    """The images of the scenes as TIFF of five channels; annotations that name them so."""
    folder.mkdir()
    for scene in SCENES:
        scene.file_name = scene.file_name.replace('.png', '.tif')
        pixels = np.random.default_rng(0).integers(300, 4000, (5, scene.height, scene.width)).astype(np.uint16)
        pixels += np.arange(5, dtype=np.uint16)[:, None, None] * 5000
        tifffile.imwrite(folder / scene.file_name, pixels, imagej=True, metadata={'axes': 'CYX'})


def write_maps(folder):
    for scene in SCENES:
        write_map(folder / scene.file_name, label_map(scene, scene.objects))


@pytest.mark.parametrize(
    ('ann', 'write'),
    [
        ('masks', write_maps),
        ('yolo/labels', lambda path: write_yolo(path.parent, SCENES)),
        ('labelme', lambda path: write_labelme(path, SCENES)),
        ('a.xml', lambda path: path.write_text(cvat_text(SCENES))),
        ('via.json', lambda path: path.write_text(json.dumps(via_document(SCENES)))),
    ],
    ids=['label maps', 'yolo', 'labelme', 'cvat', 'via'],
)
def test_every_format_may_have_such_images(here, ann, write):
    many_channels(here / 'images')
    write(here / ann)
    if ann.startswith('yolo'):
        shutil.copy(here / 'yolo/data.yaml', here / 'yolo/labels/data.yaml')
    words = ['--train', ann, 'images', '--split', '0.34']
    assert '--channels: 6 of 6 images have other than 1 or 3 channels' in init(*words, status=2)
    assert not (here / 'my.py').exists()
    init(*words, '--channels', '3')
    picture, _ = loaded('train')
    assert (picture == picture[..., :1]).all()
    assert picture.std() > 40  # spread over 0 to 255, and enlarged
    init(*words, '--channels', '4,0,1', '--force')
    (lows, _) = np.array(Config.fromfile('my.py').load_image.limits).T
    assert lows == pytest.approx([20_300, 300, 5300], abs=60)


def test_help_names_the_option(run_command):
    assert '--channels N|R,G,B' in run_command('mmext', 'init', '--help').stdout


SIDE = 1100


def slides(folder, dtype, compression=None):
    """Two training slides and a validation slide with small squares on a grid, the same in all; one lies over an edge of
    the tiles of 256 px, and a sliver of another."""
    for part, number in (('train', 2), ('val', 1)):
        (folder / part).mkdir()
        images, annotations = [], []
        for i in range(number):
            pixels = np.random.default_rng(i).integers(0, 50, (SIDE, SIDE)).astype(dtype) + (
                1000 if dtype != np.uint8 else 0
            )
            images.append({'id': i + 1, 'file_name': f'{i}.tif', 'width': SIDE, 'height': SIDE})
            for x, y in [(60 + 110 * a, 65 + 200 * b) for a in range(9) for b in range(5)] + [(210, 10), (196, 500)]:
                corners = [x, y, x + 25, y, x + 25, y + 25, x, y + 25]
                box = {'bbox': [x, y, 25, 25], 'area': 625, 'iscrowd': 0, 'segmentation': [corners]}
                annotations.append({'id': len(annotations) + 1, 'image_id': i + 1, 'category_id': 1, **box})
                pixels[y : y + 25, x : x + 25] = 200 if dtype == np.uint8 else 3000
            tifffile.imwrite(folder / part / f'{i}.tif', pixels, tile=(128, 128), compression=compression)
        document = {'images': images, 'annotations': annotations, 'categories': [{'id': 1, 'name': 'cell'}]}
        (folder / part / 'ann.json').write_text(json.dumps(document))
    return ['--train', 'train/ann.json', 'train', '--val', 'val/ann.json', 'val']


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_slides_are_trained_on_in_crops_and_validated_on_in_tiles(here, dtype):
    output = init(*slides(here, dtype))  # the recipe fits images into 256x256
    assert 'Trained on crops of 256x256 px around objects, 25 an image and epoch' in output
    assert '1 images are cut into 25 tiles of at most 256 px' in output
    cfg = Config.fromfile('my.py')
    dataset = cfg.train_dataloader.dataset
    assert (dataset.type, dataset.times) == ('RepeatDataset', 25)
    assert dataset.dataset.pipeline[0].whole is False
    assert dataset.dataset.filter_cfg.min_size == 32
    seen = set()
    for place in range(2):
        picture, instances = loaded('train', place)
        assert picture.shape == (256, 256, 3)
        assert len(instances)
        for box in instances.bboxes.tensor.int().tolist():
            x1, y1, x2, y2 = box
            assert picture[y1:y2, x1:x2].min() > 150
            seen.add((x2 - x1, y2 - y1))
    assert (25, 25) in seen  # at the resolution of the file
    tiles = read_coco(cfg.val_dataloader.dataset.ann_file)
    assert cfg.val_evaluator.ann_file == cfg.val_dataloader.dataset.ann_file == str(here / 'my_val_tiles/annotations.json')
    assert sum(one['iscrowd'] for one in tiles.annotations) == 1  # a column of 25 px of the last square
    for place in range(len(tiles.images)):
        picture, instances = loaded('val', place)
        assert max(picture.shape) <= 256
        for x1, y1, x2, y2 in instances.bboxes.tensor.int().tolist():
            assert picture[y1:y2, x1:x2].min() > 150
    assert pipeline_to_predict(cfg)[1] == {'type': 'Resize', 'scale_factor': 1.0, 'keep_ratio': True}
    assert 'my.py is there already' in init('--train', 'train/ann.json', 'train', '--split', '0.5', status=2)


def test_tiles_of_a_person_are_not_written_over(here):
    words = slides(here, np.uint8)
    (here / 'my_val_tiles').mkdir()
    (here / 'my_val_tiles/annotations.json').write_text('{"mine": 1}')
    assert 'annotations.json is there already' in init(*words, status=2)
    assert 'was not written by `mmext init`' in init(*words, '--force', status=2)
    assert [path.name for path in (here / 'my_val_tiles').iterdir()] == ['annotations.json']
    assert not (here / 'my.py').exists()


def test_check_of_slides_holds_limits_against_parts_of_them(here, run_command):
    init(*slides(here, np.uint8))
    done = run_command('mmext', 'check', here / 'my.py', status=None, cwd=here)
    assert 'limit-below-objects' not in done.stdout
    assert 'CropAroundInstance: drawn anew each time an image is read' in done.stdout
    assert 'Traceback' not in done.stdout


def test_a_training_and_a_prediction_on_slides(here, run_command):
    init(*slides(here, np.uint16))
    quick = ['train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'train_dataloader.dataset.times=2', 'load_from=None']
    run_command('mim', 'train', 'mmdet', 'my.py', '--work-dir', 'run', '--cfg-options', *quick, cwd=here)
    (log,) = here.glob('run/*/vis_data/scalars.json')
    last = json.loads(log.read_text().splitlines()[-1])
    assert last['coco/segm_mAP'] >= 0
    assert np.isfinite(last['val_loss'])
    done = run_command(
        'mmext',
        'predict',
        'my.py',
        'run/epoch_1.pth',
        'val/0.tif',
        '--out',
        'found',
        '--tile',
        256,
        '--format',
        'csv',
        cwd=here,
    )
    assert done.stdout.startswith('val/0.tif\t')
