import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from pycocotools import mask as coco_mask

from mmext.data.coco_file import read_coco
from mmext.errors import InputError
from mmext.predict.run import FORMATS, Settings, check_formats, predict
from mmext.transforms import LoadMicroscopeImage

NOTHING = {'say': lambda line: None, 'remark': lambda line: None}


@pytest.fixture(scope='module')
def images(shapes_run):
    return shapes_run.parent / 'val'


@pytest.fixture(scope='module')
def ask(shapes_run):
    """Settings for the trained model, with changes."""
    usual = {'config': str(shapes_run.parent / 'config.py'), 'checkpoint': shapes_run / 'epoch_1.pth', 'device': 'cpu'}
    return lambda **changes: Settings(**{**usual, **changes})


@pytest.fixture(scope='module')
def everything(images, ask, tmp_path_factory):
    """All formats of all images, in batches of two, and what was said."""
    out, lines = tmp_path_factory.mktemp('everything') / 'out', []
    outcome = predict([images], out, ask(formats=FORMATS, batch_size=2, pixel_size='0.5um'), lines.append, print)
    assert outcome.failed == []
    return out, lines


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def rows_of(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_every_format_tells_the_same(everything, images):
    out, lines = everything
    coco, results = read_coco(out / 'annotations.json'), json.loads((out / 'coco_results.json').read_text())
    table, summary = rows_of(out / 'instances.csv'), rows_of(out / 'summary.csv')
    names = [path.name for path in sorted(images.glob('*.png'))]
    assert [image['file_name'] for image in coco.images] == names
    assert len(lines) == len(names) == 5
    assert len(coco.annotations) == len(results) == len(table) > 15
    for image, line in zip(coco.images, lines, strict=True):
        stem = Path(image['file_name']).stem
        with np.load(out / 'npz' / f'{stem}.npz') as file:
            arrays = dict(file)
        mine = [row for row in table if row['image'] == image['file_name']]
        assert [row['class'] for row in mine] == [str(arrays['class_names'][label]) for label in arrays['labels']]
        assert [float(row['score']) for row in mine] == pytest.approx(arrays['scores'].tolist(), rel=1e-6)
        assert [float(row['area_px']) for row in mine] == arrays['masks'].sum((1, 2)).tolist()
        assert [float(row['area_um2']) for row in mine] == pytest.approx(arrays['masks'].sum((1, 2)) / 4)
        assert arrays['scores'].min() >= 0.5
        entries = [one for one in results if one['image_id'] == image['id']]
        assert np.array_equal(coco_mask.decode([one['segmentation'] for one in entries]), arrays['masks'].transpose(1, 2, 0))
        numbers = cv2.imread(str(out / 'label_maps' / f'{stem}.png'), cv2.IMREAD_UNCHANGED)
        assert numbers.dtype == np.uint16
        assert np.array_equal(numbers > 0, arrays['masks'].any(0))
        shown = rows_of(out / 'label_maps' / f'{stem}.csv')
        assert [int(row['shown_px']) for row in shown] == [int((numbers == i + 1).sum()) for i in range(len(shown))]
        assert cv2.imread(str(out / 'overlays' / f'{stem}.png')).shape[1] == 256
        path, count, classes = line.split('\t')
        assert (path, int(count)) == (str(images / image['file_name']), len(mine))
        assert sum(int(part.rpartition(' ')[2]) for part in classes.split(', ')) == len(mine)
    assert sum(int(row['count']) for row in summary) == len(table)
    assert len(summary) == 5 * 4  # each class of each image, those with none too


def test_a_broken_off_start_goes_on_and_ends_in_the_same_bytes(everything, images, ask, tmp_path):
    settings = ask(formats=FORMATS, batch_size=2, pixel_size='0.5um')
    said = []

    def stop(line):
        said.append(line)
        if len(said) == 3:  # within a batch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict([images], tmp_path, settings, stop, print)
    assert not (tmp_path / 'annotations.json').exists()
    assert len(list((tmp_path / 'records').iterdir())) == 3
    # killed after a file and before its record, and while one was written
    (tmp_path / 'records' / '0002.json').unlink()
    (tmp_path / 'npz' / '0003.npz.unfinished').write_bytes(b'half')
    kept = (tmp_path / 'records' / '0000.json').stat().st_mtime_ns
    predict([images], tmp_path, settings, said.append, print)
    assert said[3:] == everything[1]
    assert (tmp_path / 'records' / '0000.json').stat().st_mtime_ns == kept
    assert files(tmp_path) == files(everything[0])


def test_what_is_done_is_not_predicted_again_and_a_format_can_be_added(everything, images, ask, tmp_path, monkeypatch):
    from mmext.predict.predictor import Predictor

    shutil.copytree(everything[0], tmp_path / 'out')
    (tmp_path / 'out' / 'overlays' / '0001.png').unlink()
    (tmp_path / 'out' / 'instances.csv').unlink()
    monkeypatch.setattr(Predictor, 'find', lambda *_: pytest.fail('predicted again'))
    predict([images], tmp_path / 'out', ask(formats=FORMATS, batch_size=2, pixel_size='0.5um'), **NOTHING)
    assert files(tmp_path / 'out') == files(everything[0])


def test_other_settings_in_the_same_folder_are_refused(everything, images, ask, tmp_path):
    shutil.copytree(everything[0], tmp_path / 'out')
    for changes, words in (
        ({'score_thr': 0.6}, r"thresholds was \{'Disk': 0\.5"),
        ({'mask_thr': 0.4}, 'mask thr was None, now 0.4'),
        ({'classes': ('Rod',)}, r"classes was None, now \['Rod'\]"),
        ({'cfg_options': ('model.test_cfg.rcnn.nms.iou_threshold=0.3',)}, 'config sha256'),
        ({'batch_size': 1}, 'batch size was 2, now 1'),
    ):
        with pytest.raises(InputError, match=f'earlier start with other settings: {words}.*--force'):
            predict([images], tmp_path / 'out', ask(**{'batch_size': 2, **changes}), **NOTHING)
    assert files(tmp_path / 'out') == files(everything[0])
    again = ask(formats=('coco-results',), classes=('Rod',), force=True)
    predict([images / '0000.png'], tmp_path / 'out', again, **NOTHING)
    assert [path.name for path in (tmp_path / 'out' / 'records').iterdir()] == ['0000.json']
    results = json.loads((tmp_path / 'out' / 'coco_results.json').read_text())
    assert {one['category_id'] for one in results} == {2}


def test_one_bad_image_stops_no_other(everything, images, ask, tmp_path):
    shutil.copytree(images, tmp_path / 'images')
    (tmp_path / 'images' / '0001.png').write_bytes(b'')
    tifffile.imwrite(tmp_path / 'images' / '0000a.tif', np.zeros((4, 64, 64), np.uint16), photometric='minisblack')
    lines = []
    outcome = predict([tmp_path / 'images'], tmp_path / 'out', ask(batch_size=2, formats=('csv',)), lines.append, print)
    failed = {image.file_name: reason for image, reason in outcome.failed}
    assert list(failed) == ['0000a.tif', '0001.png']
    assert 'a stack of 4 pages' in failed['0000a.tif']
    assert 'the file is empty' in failed['0001.png']
    assert len(lines) == 4
    wanted = {name for name in (row['image'] for row in rows_of(everything[0] / 'instances.csv')) if name != '0001.png'}
    assert {row['image'] for row in rows_of(tmp_path / 'out' / 'instances.csv')} == wanted
    shutil.copy(images / '0001.png', tmp_path / 'images')
    outcome = predict([tmp_path / 'images'], tmp_path / 'out', ask(batch_size=2, formats=('csv',)), lines.append, print)
    assert [image.file_name for image, _ in outcome.failed] == ['0000a.tif']  # and the mended one is done now
    assert len(lines) == 9


def test_a_model_that_fails_on_one_image_of_a_batch_predicts_the_others(images, ask, tmp_path, monkeypatch):
    from mmext.predict.predictor import Predictor

    find = Predictor.find

    def fails_on_the_second(self, loaded):
        if any('0001' in one['data_samples'].img_path for one in loaded):
            raise RuntimeError('out of memory')
        return find(self, loaded)

    monkeypatch.setattr(Predictor, 'find', fails_on_the_second)
    lines = []
    outcome = predict([images], tmp_path, ask(batch_size=4, formats=()), lines.append, print)
    assert [(image.file_name, reason) for image, reason in outcome.failed] == [('0001.png', 'RuntimeError: out of memory')]
    assert len(lines) == 4


def test_annotations_that_were_corrected_by_hand_stay(everything, images, ask, tmp_path):
    out = tmp_path / 'out'
    shutil.copytree(everything[0], out)
    (out / 'annotations.json').write_text('corrected')
    settings = {'formats': FORMATS, 'batch_size': 2, 'pixel_size': '0.5um'}
    for force in (False, True):
        outcome = predict([images], out, ask(**settings, force=force), **NOTHING)
        assert (out / 'annotations.json').read_text() == 'corrected'
        assert (out / 'annotations.new.json').read_bytes() == (everything[0] / 'annotations.json').read_bytes()
        *known, kept = outcome.lines
        assert bool(known) is not force  # by force all are predicted again
        assert kept == (
            f'{out}/annotations.json is not as mmext wrote it, so it stays; the new one is {out}/annotations.new.json.'
        )
        assert out / 'annotations.new.json' in outcome.files
        assert out / 'annotations.json' not in outcome.files


def test_images_of_the_same_name_in_another_folder_are_refused(images, ask, tmp_path):
    for folder, name in (('plate1', '0000.png'), ('plate2', '0001.png')):
        (tmp_path / folder).mkdir()
        shutil.copy(images / name, tmp_path / folder / 'well.png')
    out = tmp_path / 'out'
    predict([tmp_path / 'plate1'], out, ask(formats=('npz', 'csv')), **NOTHING)
    before = files(out)
    with pytest.raises(InputError, match=r'plate1/well\.png under the name well, which .*plate2/well\.png.*--force'):
        predict([tmp_path / 'plate2'], out, ask(formats=('npz', 'csv')), **NOTHING)
    assert files(out) == before
    predict([tmp_path / 'plate2'], out, ask(formats=('npz',), force=True), **NOTHING)
    assert files(out)['npz/well.npz'] != before['npz/well.npz']
    assert 'instances.csv' not in files(out)  # of other predictions


def test_a_second_start_says_what_was_done_already(images, ask, tmp_path):
    first, second = (predict([images], tmp_path / 'out', ask(formats=('csv',)), **NOTHING) for _ in range(2))
    assert first.lines == []
    assert second.lines == ['5 of 5 images were done already.']


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'tile': 32}, 'a tile of 32 px; it must be a whole number from 64'),
        ({'tile': 256, 'overlap': 0.9}, r'an overlap of 0\.9; it must be a share of the tile'),
        (
            {'tile': 256, 'cfg_options': ('test_dataloader.dataset.pipeline.0.color_type=unchanged',)},
            '--tile: the config loads images with LoadImageFromFile, which reads whole ones',
        ),
    ],
)
def test_tiles_that_cannot_be_are_no_fault_of_an_image(images, ask, tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        predict([images], tmp_path / 'out', ask(**changes), **NOTHING)
    assert not (tmp_path / 'out').exists()


def test_a_model_of_crops_says_when_tiles_are_wanted(images, ask, tmp_path):
    config = tmp_path / 'crops.py'
    config.write_text(
        f'_base_ = {ask().config!r}\n'
        "train_dataloader = dict(dataset=dict(pipeline=[dict(type='mmext.CropAroundInstance', size=(64, 48))]))\n"
    )
    slide = tmp_path / 'slide.png'
    cv2.imwrite(str(slide), np.zeros((40, 129, 3), np.uint8))
    lines = []
    for number, changes in enumerate(({'config': str(config)}, {'config': str(config), 'tile': 64}, {})):
        said = []
        predict([images / '0000.png', slide], tmp_path / str(number), ask(**changes), said.append, said.append)
        lines.append([line for line in said if '--tile' in line])
    assert lines[1:] == [[], []]
    size = max(cv2.imread(str(images / '0000.png')).shape)
    ((line,),) = lines[:1]
    assert line.startswith(f'{1 + (size > 128)} of 2 images are more than 2 times as long as the crops of 64 px')
    assert '--tile 64' in line


@pytest.mark.parametrize('changes', [{'tile': 256}, {'batch_size': 2}])
def test_a_model_without_masks_is_no_fault_of_an_image(images, ask, tmp_path, monkeypatch, changes):
    from mmdet.models.detectors import MaskRCNN

    test_step = MaskRCNN.test_step

    def boxes_alone(self, data):
        samples = test_step(self, data)
        for sample in samples:
            del sample.pred_instances.masks
        return samples

    with monkeypatch.context() as patch:
        patch.setattr(MaskRCNN, 'test_step', boxes_alone)
        with pytest.raises(InputError, match='MaskRCNN finds boxes and no masks'):
            predict([images], tmp_path, ask(formats=(), **changes), **NOTHING)
    outcome = predict([images / '0000.png'], tmp_path, ask(formats=(), score_thr=0.9), **NOTHING)  # nothing was done so far
    assert outcome.failed == []


def reasons(outcome):
    return {image.file_name: reason for image, reason in outcome.failed}


@pytest.mark.parametrize(
    ('when', 'changes'),
    [
        ('when it is done', {}),
        ('before its turn', {'batch_size': 2}),
        ('while it is predicted', {'batch_size': 2}),
        ('while it is predicted', {'tile': 256}),
    ],
)
def test_an_image_that_goes_away_stops_no_other(images, ask, tmp_path, monkeypatch, changes, when):
    from mmext.predict.predictor import Predictor

    for name in ('0000.png', '0001.png', '0002.png'):
        (tmp_path / 'images').mkdir(exist_ok=True)
        shutil.copy(images / name, tmp_path / 'images')
    gone = tmp_path / 'images' / ('0000.png' if when == 'when it is done' else '0002.png')
    said, method = [], 'instances' if 'tile' in changes else 'find'
    original = getattr(Predictor, method)

    def while_predicted(self, loaded):
        if len(said) == 2:
            gone.unlink(missing_ok=True)
        return original(self, loaded)

    def say(line):
        said.append(line)
        if when != 'while it is predicted':
            gone.unlink(missing_ok=True)

    if when == 'while it is predicted':
        monkeypatch.setattr(Predictor, method, while_predicted)
    formats = ('csv', 'coco', 'coco-results', 'overlay')
    outcome = predict([tmp_path / 'images'], tmp_path / 'out', ask(formats=formats, **changes), say, print)
    assert list(reasons(outcome)) == [gone.name]
    assert 'it is no longer there' in reasons(outcome)[gone.name]
    assert outcome.crashes == []
    left = [path.name for path in sorted((tmp_path / 'images').glob('*.png'))]
    assert len(left) == 2
    assert [image['file_name'] for image in read_coco(tmp_path / 'out' / 'annotations.json').images] == left
    assert {row['image'] for row in rows_of(tmp_path / 'out' / 'summary.csv')} == set(left)


@pytest.mark.parametrize('tile', [None, 256])
def test_an_image_that_is_replaced_while_it_is_predicted_is_not_done(images, ask, tmp_path, monkeypatch, tile):
    from mmext.predict.predictor import Predictor

    for name in ('a.png', 'b.png'):
        shutil.copy(images / '0000.png', tmp_path / name)
    method = 'instances' if tile else 'find'
    original, small = getattr(Predictor, method), np.zeros((64, 64, 3), np.uint8)

    def replaced(self, loaded):
        found = original(self, loaded)
        cv2.imwrite(str(tmp_path / 'a.png'), small)
        return found

    settings = ask(formats=('csv', 'overlay'), tile=tile)
    with monkeypatch.context() as patch:
        patch.setattr(Predictor, method, replaced)
        outcome = predict([tmp_path / 'a.png', tmp_path / 'b.png'], tmp_path / 'out', settings, **NOTHING)
    assert list(reasons(outcome)) == ['a.png']
    assert 'it was changed while it was predicted. Start again' in reasons(outcome)['a.png']
    assert outcome.crashes == []
    assert {row['image'] for row in rows_of(tmp_path / 'out' / 'summary.csv')} == {'b.png'}
    assert predict([tmp_path / 'a.png', tmp_path / 'b.png'], tmp_path / 'out', settings, **NOTHING).failed == []
    assert json.loads((tmp_path / 'out' / 'records' / 'a.json').read_text())['size'] == [64, 64]
    assert cv2.imread(str(tmp_path / 'out' / 'overlays' / 'a.png')).shape[0] < 256


def test_files_of_an_older_picture_do_not_stay(images, ask, tmp_path):
    out = tmp_path / 'out'
    shutil.copy(images / '0000.png', tmp_path / 'a.png')
    everything = ('overlay', 'npz', 'label-map')
    predict([tmp_path / 'a.png'], out, ask(formats=everything), **NOTHING)
    before = files(out)
    cv2.imwrite(str(tmp_path / 'a.png'), cv2.imread(str(images / '0001.png')))
    predict([tmp_path / 'a.png'], out, ask(formats=('csv',)), **NOTHING)
    of_image = {'overlays/a.png', 'npz/a.npz', 'label_maps/a.png', 'label_maps/a.csv'}
    assert of_image <= set(before)
    assert not of_image & set(files(out))
    predict([tmp_path / 'a.png'], out, ask(formats=everything), **NOTHING)
    after = files(out)
    assert all(after[name] != before[name] for name in of_image)


def test_a_fault_of_ours_stops_no_other_image_and_is_told(images, ask, tmp_path, monkeypatch):
    from mmext.predict import run

    overlay = run.export.overlay

    def boom(picture, instances, scale):
        if len(calls) == 1:
            calls.append(picture)
            return None.colours
        calls.append(picture)
        return overlay(picture, instances, scale)

    calls = []
    monkeypatch.setattr(run.export, 'overlay', boom)
    outcome = predict([images], tmp_path / 'out', ask(), **NOTHING)
    assert reasons(outcome) == {'0001.png': "AttributeError: 'NoneType' object has no attribute 'colours'"}
    assert len(outcome.crashes) == 1
    assert 'in boom' in outcome.crashes[0]
    assert len(list((tmp_path / 'out' / 'overlays').iterdir())) == 4
    assert len({row['image'] for row in rows_of(tmp_path / 'out' / 'summary.csv')}) == 4


@pytest.mark.parametrize(
    ('broken', 'failed'),
    [
        ('mmext.predict.run.export.overlay', 1),
        ('mmext.predict.run.table', 1),
        ('mmext.predict.run.summary', 0),
        ('mmext.predict.predictor.encoded', 1),
    ],
)
def test_a_fault_of_ours_is_exit_code_70_with_its_traceback(shapes_run, images, tmp_path, monkeypatch, broken, failed):
    from click.testing import CliRunner

    from mmext.cli import cli

    def boom(*_):
        return None.colours

    config, checkpoint = shapes_run.parent / 'config.py', shapes_run / 'epoch_1.pth'
    arguments = ['predict', config, checkpoint, images / '0000.png', '--out', tmp_path / 'out', '--device', 'cpu']
    monkeypatch.setattr(broken, boom)
    done = CliRunner().invoke(cli, list(map(str, arguments)))
    assert done.exit_code == 70, done.output
    assert done.output.count('Traceback') == 1
    assert done.output.endswith("AttributeError: 'NoneType' object has no attribute 'colours'\n")
    assert 'That is a defect of mmext: please report it' in done.output
    assert ('1 images could not be used' in done.output) == bool(failed)


def test_a_transform_that_fails_on_an_image_is_no_fault_of_ours(images, ask, tmp_path, monkeypatch):
    from mmext.predict.predictor import Predictor

    def load(self, image):
        raise KeyError('scale')

    monkeypatch.setattr(Predictor, 'load', load)
    outcome = predict([images / '0000.png'], tmp_path, ask(formats=()), **NOTHING)
    assert reasons(outcome) == {'0000.png': "KeyError: 'scale'"}
    assert outcome.crashes == []


def test_images_of_the_same_name_keep_files_of_their_own(images, ask, tmp_path):
    for folder, name in (('plate1', '0000.png'), ('plate2', '0001.png')):
        (tmp_path / folder).mkdir()
        shutil.copy(images / name, tmp_path / folder / 'well.png')
    predict([tmp_path / 'plate1', tmp_path / 'plate2'], tmp_path / 'out', ask(formats=('npz', 'coco')), **NOTHING)
    found = [np.load(tmp_path / 'out' / 'npz' / folder / 'well.npz')['scores'] for folder in ('plate1', 'plate2')]
    assert not np.array_equal(*found)
    coco = read_coco(tmp_path / 'out' / 'annotations.json')
    assert [image['file_name'] for image in coco.images] == ['plate1/well.png', 'plate2/well.png']


def test_a_deep_picture_is_found_as_the_eight_bit_one(images, ask, tmp_path):
    grey = cv2.imread(str(images / '0000.png'), cv2.IMREAD_GRAYSCALE)
    low, high = np.percentile(grey, (0.1, 99.9))
    tifffile.imwrite(tmp_path / 'deep.tif', grey.astype(np.uint16) * 16)
    cv2.imwrite(str(tmp_path / 'eight.png'), np.clip((grey - low) / (high - low) * 255 + 0.5, 0, 255).astype(np.uint8))
    shown = [LoadMicroscopeImage()({'img_path': str(tmp_path / name)})['img'] for name in ('deep.tif', 'eight.png')]
    assert np.abs(shown[0].astype(int) - shown[1]).max() <= 1
    predict([tmp_path], tmp_path / 'out', ask(formats=('npz',)), **NOTHING)
    deep, eight = (np.load(tmp_path / 'out' / 'npz' / f'{name}.npz') for name in ('deep', 'eight'))
    assert np.array_equal(deep['labels'], eight['labels'])
    assert np.abs(deep['boxes'] - eight['boxes']).max() < 2


def test_against_the_truth(images, ask, tmp_path):
    truth = images / 'annotations.json'
    outcome = predict([images], tmp_path, ask(formats=('coco-results',), truth=truth, pixel_size='2um'), **NOTHING)
    agreement = {(row['class'], row['quantity']): row for row in rows_of(tmp_path / 'agreement.csv')}
    coco = read_coco(truth)
    rods = [one for one in coco.annotations if coco.classes[one['category_id'] - 1] == 'Rod']
    assert float(agreement['Rod', 'count']['true']) == pytest.approx(len(rods) / 5)
    area = sum(one['area'] for one in rods) * 4 / 5
    assert float(agreement['Rod', 'total area um2']['true']) == pytest.approx(area, rel=0.05)
    assert ('all classes', 'total length um') in agreement
    errors = {row['class']: row for row in rows_of(tmp_path / 'errors.csv')}
    assert int(errors['Rod']['objects']) == len(rods)
    assert len(rows_of(tmp_path / 'agreement_by_image.csv')) == 5 * 5
    assert outcome.lines[0] == 'Predicted against true, 5 images:'
    # image ids are those of the annotation file
    results = json.loads((tmp_path / 'coco_results.json').read_text())
    ids = {image['file_name']: image['id'] for image in coco.images}
    assert all(one['image_id'] == ids[one['file_name']] for one in results)


def test_a_truth_of_images_of_another_size_is_left_out(images, ask, tmp_path):
    document = json.loads((images / 'annotations.json').read_text())
    for image in document['images'][:2]:
        image['width'] *= 2
    (tmp_path / 'ann.json').write_text(json.dumps(document))
    settings = ask(formats=('csv',), truth=tmp_path / 'ann.json')
    outcome = predict([images], tmp_path / 'out', settings, **NOTHING)
    assert outcome.lines[0] == 'Predicted against true, 3 images:'
    assert outcome.lines[-1] == (
        f'2 of 5 images have another size in {tmp_path}/ann.json and are not compared, width by height: '
        '0000.png (256×256, in the file 512×256), 0001.png (256×256, in the file 512×256).'
    )
    compared = {row['image'] for row in rows_of(tmp_path / 'out' / 'agreement_by_image.csv')}
    assert compared == {'0002.png', '0003.png', '0004.png'}
    for image in document['images'][2:]:
        image['height'] += 1
    (tmp_path / 'ann.json').write_text(json.dumps(document))
    (tmp_path / 'out' / 'summary.csv').unlink()
    with pytest.raises(
        InputError, match=r'ann\.json has other sizes for all images.*0000\.png \(256×256, in the file 512×256'
    ):
        predict([images], tmp_path / 'out', settings, **NOTHING)
    assert (tmp_path / 'out' / 'summary.csv').exists()


def test_a_truth_of_other_images_or_classes_is_refused_before_anything_is_predicted(images, ask, tmp_path):
    document = json.loads((images / 'annotations.json').read_text())
    for change, words in (
        (
            {'images': [{**image, 'file_name': f'x{i}.png'} for i, image in enumerate(document['images'])]},
            'none of the images',
        ),
        (
            {'categories': [{**one, 'name': f'x{i}'} for i, one in enumerate(document['categories'])]},
            'has the classes x0, x1',
        ),
    ):
        (tmp_path / 'ann.json').write_text(json.dumps({**document, **change}))
        with pytest.raises(InputError, match=words):
            predict([images], tmp_path / 'out', ask(truth=tmp_path / 'ann.json'), **NOTHING)
    assert not (tmp_path / 'out').exists()


def test_auto_takes_the_thresholds_kept_with_the_run(run_folder, demo_config, demo_data, tmp_path):
    from mmext.analysis.operating_point import thresholds_for

    shutil.copytree(run_folder, tmp_path / 'run')  # the operating points are kept in it
    checkpoint, remarks = tmp_path / 'run' / 'epoch_1.pth', []
    settings = Settings(str(demo_config), checkpoint, score_thr='auto', device='cpu', formats=())
    image = next((demo_data / 'val').glob('*.png'))
    predict([image], tmp_path / 'out', settings, lambda line: None, remarks.append)
    thresholds, lines = thresholds_for(checkpoint, ('Fiber', 'Fragment', 'Film'))
    assert json.loads((tmp_path / 'out' / 'settings.json').read_text())['thresholds'] == thresholds
    assert remarks == lines != []


def test_that_more_may_be_there_is_said(images, ask, tmp_path):
    outcome = predict([images], tmp_path / 'few', ask(max_per_img=2, formats=('csv',)), **NOTHING)
    (line,) = [line for line in outcome.lines if 'more may be there' in line]
    assert line.startswith('5 images have 2 instances, all that max_per_img keeps')
    outcome = predict([images], tmp_path / 'all', ask(formats=('csv',)), **NOTHING)
    assert not any('more may be there' in line for line in outcome.lines)


def test_formats():
    assert check_formats(['npz', 'csv', 'npz']) == ('npz', 'csv')
    with pytest.raises(InputError, match=r"--format: 'overlays' is no format. Did you mean 'overlay'\? There are: csv"):
        check_formats(['overlays'])


@pytest.fixture
def command(run_command, shapes_run):
    def run(*arguments, **settings):
        fixed = ['predict', shapes_run.parent / 'config.py', shapes_run / 'epoch_1.pth', '--device', 'cpu']
        return run_command('mmext', *fixed, *arguments, **settings)

    return run


def test_the_command_prints_a_line_an_image_and_ends_with_1_for_a_bad_one(command, images, tmp_path):
    (tmp_path / 'in').mkdir()
    shutil.copy(images / '0000.png', tmp_path / 'in')
    (tmp_path / 'in' / 'bad.tif').write_bytes(b'II*\0')
    done = command(tmp_path / 'in', '--out', 'found', '--classes', 'Star,Disk', '--score-thr', '0.9', status=1)
    assert f'{tmp_path}/in/0000.png\t3\tDisk 1, Star 2' in done.stdout
    assert '1 images could not be used:' in done.stdout
    assert 'bad.tif: not a whole TIFF' in done.stdout
    written = sorted(path.name for path in (tmp_path / 'found').iterdir())
    assert written == ['instances.csv', 'overlays', 'records', 'settings.json', 'summary.csv', 'written.json']


def test_help_has_examples(run_command):
    assert 'mmext predict my.py best.pth' in run_command('mmext', 'predict', '--help').stdout


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['none.png', '--out', 'o'], 'none.png: there is no such file or folder'),
        (['.', '--out', 'o'], 'no image in it'),
        (['.', '--out', 'o', '--format', 'jpg'], "--format: 'jpg' is no format"),
        (['.', '--out', 'o', '--score-thr', 'high'], "'high' is neither a number from 0 to 1 nor auto"),
    ],
)
def test_bad_input_is_exit_code_2(command, arguments, words):
    done = command(*arguments, status=2)
    assert words in done.stdout
    assert 'Traceback' not in done.stdout


def test_a_large_image_in_tiles_is_found_as_in_one_piece(images, ask, tmp_path):
    whole = cv2.copyMakeBorder(cv2.imread(str(images / '0000.png')), 0, 0, 0, 64, cv2.BORDER_REPLICATE)
    cv2.imwrite(str(tmp_path / 'a.png'), whole)
    for name, settings in (('whole', {}), ('tiles', {'tile': 256, 'overlap': 0.5}), ('one tile', {'tile': 400})):
        predict([tmp_path / 'a.png'], tmp_path / name, ask(formats=('npz', 'overlay'), score_thr=0.9, **settings), **NOTHING)
    found = {name: np.load(tmp_path / name / 'npz' / 'a.npz')['masks'] for name in ('whole', 'tiles', 'one tile')}
    assert np.array_equal(found['one tile'], found['whole'])
    assert found['tiles'].shape[1:] == (256, 320)
    disc = found['whole'][found['whole'].sum((1, 2)).argmax()]
    overlaps = [(disc & mask).sum() / (disc | mask).sum() for mask in found['tiles']]
    assert max(overlaps) > 0.8
