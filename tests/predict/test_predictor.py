import gc
import shutil
import weakref
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from pycocotools import mask as coco_mask

import mmext
from mmext.data.demo import KINDS, write_part
from mmext.errors import InputError
from mmext.predict.model_config import with_thresholds
from mmext.predict.predictor import Predictor, batches
from mmext.structures.rle_masks import RLEMasks

LOADERS = ('test_dataloader.', 'val_dataloader.')
ARRAYS = {'masks': bool, 'labels': np.int64, 'scores': np.float32, 'boxes': np.float32}


@pytest.fixture(scope='module')
def config(shapes_run):
    return shapes_run.parent / 'config.py'


@pytest.fixture(scope='module')
def checkpoint(shapes_run):
    return shapes_run / 'epoch_1.pth'


@pytest.fixture(scope='module')
def paths(shapes_run):
    return sorted((shapes_run.parent / 'val').glob('*.png'))[:3]


@pytest.fixture(scope='module')
def predictor(config, checkpoint):
    return Predictor(config, checkpoint, 'cpu')


@pytest.fixture(scope='module')
def found(predictor, paths):
    return predictor(paths)


def same(one, other):
    return all(np.array_equal(one[key], other[key]) for key in ARRAYS)


def test_what_is_found_is_what_the_detinferencer_finds(config, checkpoint, paths, found):
    from mmdet.apis import DetInferencer

    # it takes no Path, and prints
    inferencer = DetInferencer(str(config), str(checkpoint), device='cpu', show_progress=False)
    theirs = inferencer([str(path) for path in paths], return_datasamples=True)['predictions']
    for ours, sample in zip(found, theirs, strict=True):
        stock = sample.pred_instances
        assert len(stock) > 3
        assert {key: ours[key].dtype for key in ARRAYS} == ARRAYS
        assert np.array_equal(ours['masks'], stock.masks.numpy())
        assert np.array_equal(ours['labels'], stock.labels.numpy())
        assert np.array_equal(ours['scores'], stock.scores.numpy())
        assert np.array_equal(ours['boxes'], stock.bboxes.numpy())
        assert ours['class_names'] == ('Disk', 'Rod', 'Star', 'Crescent')
        assert (np.diff(ours['scores']) <= 0).all()


def test_eight_threads_find_what_one_finds(config, checkpoint, paths, found):
    predictor = Predictor(config, checkpoint, 'cpu')
    work = [i % len(paths) for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: predictor([paths[i]])[0], work))
    assert all(same(answer, found[i]) for answer, i in zip(answers, work, strict=True))


def test_rles_hold_the_same_masks(predictor, paths, found):
    for instances, arrays in zip(predictor.instances(paths), found, strict=True):
        assert np.array_equal(instances.masks(), arrays['masks'])
        assert np.array_equal(instances.boxes, arrays['boxes'])
        assert instances.size == arrays['masks'].shape[1:]
        assert instances.class_names == arrays['class_names']


@pytest.mark.parametrize('kind', ['FCNMaskHead', 'mmext.FCNMaskHead'])
def test_no_mask_is_drawn_at_full_size(config, checkpoint, paths, found, monkeypatch, kind):
    """Stock's head in the config or ours."""
    predictor = Predictor(config, checkpoint, 'cpu', cfg_options=[f'model.roi_head.mask_head.type={kind}'])
    forward, outputs = predictor.model.test_step, []

    def passed(data):
        samples = forward(data)
        outputs.extend(type(sample.pred_instances.masks) for sample in samples)
        return samples

    monkeypatch.setattr(predictor.model, 'test_step', passed)
    monkeypatch.setattr(RLEMasks, 'masks', property(lambda masks: pytest.fail('drawn')))
    (instances,) = predictor.instances(paths[:1])
    assert outputs == [RLEMasks]
    assert np.array_equal(instances.masks(), found[0]['masks'])


def test_arrays_are_taken_as_cv2_reads_them(predictor, paths, found):
    assert same(predictor(cv2.imread(str(paths[0])))[0], found[0])
    assert same(predictor(str(paths[0]))[0], found[0])
    grey = cv2.imread(str(paths[0]), cv2.IMREAD_GRAYSCALE)
    assert same(*(predictor(image)[0] for image in (grey, np.repeat(grey[..., None], 3, 2))))
    deep = grey.astype(np.uint16) * 16  # a camera of 12 bits, whose picture is stretched a little
    boxes = [predictor(image)[0]['boxes'][0] for image in (grey, deep)]
    assert np.abs(boxes[0] - boxes[1]).max() < 6


def test_a_higher_threshold_leaves_out_and_changes_nothing_else(config, checkpoint, paths, found):
    for score_thr, least in ((0.5, [0.5] * 4), ({'Rod': 0.8, 'Star': 0.3}, [0, 0.8, 0.3, 0])):
        for ours, every in zip(Predictor(config, checkpoint, 'cpu', score_thr=score_thr)(paths), found, strict=True):
            keep = every['scores'] >= np.array(least)[every['labels']]
            assert same(ours, {key: every[key][keep] for key in ARRAYS})
            assert keep.sum() < len(keep)


def test_a_score_at_the_threshold_counts(predictor, paths, found):
    threshold = float(np.float64(found[0]['scores'][2]))
    predictor.set_score_thr(threshold)
    assert len(predictor(paths[0])[0]['scores']) == 3
    predictor.set_score_thr(None)
    assert same(predictor(paths[0])[0], found[0])


def test_settings_of_masks_classes_and_number(config, checkpoint, paths, found):
    ours = Predictor(config, checkpoint, 'cpu', mask_thr=0.8, classes=['Rod', 'Disk'], max_per_img=6)(paths[0])[0]
    first = {key: found[0][key][:6] for key in ARRAYS}
    keep = np.isin(first['labels'], [0, 1])
    assert np.array_equal(ours['scores'], first['scores'][keep])
    smaller, larger = ours['masks'], first['masks'][keep]
    assert (smaller <= larger).all()
    assert smaller.sum() < larger.sum()


def test_images_that_are_full_are_counted(config, checkpoint, paths, found):
    predictor = Predictor(config, checkpoint, 'cpu', max_per_img=6)
    predictor(paths[0])
    assert (predictor.max_per_img, predictor.full) == (6, 1)
    predictor.set_score_thr(float(found[0]['scores'][4]))  # the sixth is not kept, so none was cut off
    predictor(paths[0])
    assert predictor.full == 1


def test_more_detections_have_the_proposals_that_they_need(config):
    usual = Config.fromfile(config).model.test_cfg.rpn
    for number, changed in ((50, False), (1000, True)):
        limits = with_thresholds(Config.fromfile(config), None, number).model.test_cfg
        assert limits.rcnn.max_per_img == number
        assert (limits.rpn.max_per_img > usual.max_per_img, limits.rpn.nms_pre > usual.nms_pre) == (changed, changed)


def test_a_neighbour_in_the_batch_has_no_say(config, checkpoint, paths, found, tmp_path):
    large = cv2.resize(cv2.imread(str(paths[1])), (512, 200))
    cv2.imwrite(str(tmp_path / 'large.png'), large)
    mixed = [paths[0], tmp_path / 'large.png', paths[1], paths[2]]
    answers = Predictor(config, checkpoint, 'cpu', batch_size=4)(mixed)
    for answer, every in zip((answers[0], answers[2], answers[3]), found, strict=False):
        assert np.allclose(answer['scores'], every['scores'], atol=1e-4)
    assert answers[1]['masks'].shape[1:] == (200, 512)


def test_batches_are_of_one_shape():
    shapes = [(3, 8, 8), (3, 8, 9), (3, 8, 8), (3, 8, 8), (3, 8, 9)]
    assert batches(shapes, 2) == [[0], [1], [2, 3], [4]]
    assert batches(shapes, 4) == [[0, 2, 3], [1], [4]]
    assert batches(shapes, 9) == [[0, 2, 3], [1, 4]]
    assert batches(shapes, 1) == [[i] for i in range(5)]
    assert batches([], 4) == []


@pytest.mark.parametrize('method', ['__call__', 'instances'])
def test_a_batch_is_held_at_a_time(config, checkpoint, paths, found, monkeypatch, method):
    predictor = Predictor(config, checkpoint, 'cpu', batch_size=2)
    load, forward = predictor.load, predictor.model.test_step
    events, inputs, answers = [], [], []

    def alive(references):
        gc.collect()
        return sum(reference() is not None for reference in references)

    def loaded(image):
        events.append('load')
        assert alive(answers) == 0
        one = load(image)
        inputs.append(weakref.ref(one['inputs']))
        assert alive(inputs) <= 2
        return one

    def passed(data):
        events.append('pass')
        assert predictor._network.locked()
        assert alive(answers) == 0
        samples = forward(data)
        answers.extend(weakref.ref(sample.pred_instances.masks) for sample in samples)
        return samples

    monkeypatch.setattr(predictor, 'load', loaded)
    monkeypatch.setattr(predictor.model, 'test_step', passed)
    results = getattr(predictor, method)(iter([*paths, *paths[:2]]))  # not a list: nothing is taken from it before its turn
    assert events == ['load', 'load', 'pass'] * 2 + ['load', 'pass']
    assert len(answers) == 5
    for result, every in zip(results, [*found, *found[:2]], strict=True):
        scores = result['scores'] if method == '__call__' else result.scores
        assert np.allclose(scores, every['scores'], atol=1e-4)


def small_model(recipe, tmp_path, **changes):
    """A config of untrained weights, saved as MMEngine saves them."""
    from mmdet.utils import register_all_modules
    from mmengine.registry import init_default_scope

    from mmext.model import build_model

    register_all_modules(init_default_scope=False)
    init_default_scope('mmdet')
    cfg = Config.fromfile(mmext.recipe(recipe))
    cfg.merge_from_dict(changes)
    cfg.dump(tmp_path / 'config.py')
    torch.manual_seed(0)
    model = build_model(cfg)
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, tmp_path / 'model.pth')
    return tmp_path / 'config.py', tmp_path / 'model.pth'


@pytest.fixture(scope='module')
def solo(tmp_path_factory):
    folder = tmp_path_factory.mktemp('solo')
    changes = {'model.test_cfg.score_thr': 0.001, 'model.test_cfg.filter_thr': 0.0005}
    return small_model('solov2_r18_fpn_finetune', folder, **changes)


def test_masks_without_boxes_get_the_boxes_of_the_masks(solo, paths):
    predictor = Predictor(*solo, 'cpu', mask_thr=0.4, max_per_img=7)
    (arrays,), (instances,) = predictor(paths[:1]), predictor.instances(paths[:1])
    assert 0 < len(arrays['labels']) <= 7
    assert np.array_equal(instances.boxes, arrays['boxes'])
    assert np.array_equal(instances.masks(), arrays['masks'])
    x1, y1, x2, y2 = arrays['boxes'][0]
    rows, columns = np.nonzero(arrays['masks'][0])
    assert (x1, y1, x2, y2) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert coco_mask.area(instances.rles[0]) == len(rows)


def test_the_pipeline_keeps_no_annotations_and_loads_with_ours(predictor):
    from mmext.transforms import LoadMicroscopeImage

    assert isinstance(predictor.loader, LoadMicroscopeImage)
    kinds = [step['type'] for step in predictor.pipeline_cfg]
    assert not any('Annotations' in kind or 'InstanceMasks' in kind for kind in kinds)


def test_settings_of_the_configs_own_loader_are_kept(config, checkpoint, tmp_path):
    image = np.zeros((64, 64), np.uint16)
    cv2.imwrite(str(tmp_path / 'a.png'), image + 100)
    loader = 'test_dataloader.dataset.pipeline.0'
    for options, grey in (
        ((), 0),
        ((f'{loader}.type=mmext.LoadMicroscopeImage', f'{loader}.limits=[0,200]'), 128),
    ):
        predictor = Predictor(config, checkpoint, 'cpu', cfg_options=options)
        assert (predictor.read(tmp_path / 'a.png') == grey).all()


def test_weights_of_another_model_name_the_tensors(config, checkpoint, tmp_path):
    other = Config.fromfile(config)
    other.model.roi_head.bbox_head.num_classes = other.model.roi_head.mask_head.num_classes = 9
    with pytest.raises(
        InputError, match=r'epoch_1\.pth cannot be loaded.*another shape: roi_head\.bbox_head\.fc_cls\.weight'
    ):
        Predictor(other, checkpoint, 'cpu')
    shutil.copy(config, tmp_path / 'text.pth')
    for name, words in (('text.pth', 'cannot be loaded'), ('none.pth', 'there is no such checkpoint file')):
        with pytest.raises(InputError, match=words):
            Predictor(config, tmp_path / name, 'cpu')


@pytest.mark.parametrize(
    ('meta', 'words'),
    [
        (
            {'dataset_meta': {'classes': ('Disk', 'Rod', 'Crescent', 'Star')}},
            'name other classes.*Disk, Rod, Star, Crescent',
        ),
        ({'dataset_meta': {'classes': ('Disk', 'Rod', 'Star', 'Crescent')}}, None),
        ({}, None),
    ],
)
def test_classes_of_config_and_checkpoint_must_be_the_same(config, checkpoint, tmp_path, meta, words):
    loaded = torch.load(checkpoint, weights_only=False)
    torch.save({'state_dict': loaded.get('state_dict', loaded), 'meta': meta}, tmp_path / 'a.pth')
    if words is None:
        assert Predictor(config, tmp_path / 'a.pth', 'cpu').class_names == ('Disk', 'Rod', 'Star', 'Crescent')
    else:
        with pytest.raises(InputError, match=words):
            Predictor(config, tmp_path / 'a.pth', 'cpu')


def test_names_are_the_checkpoints_where_the_config_has_none(config, checkpoint, tmp_path):
    cfg = Config.fromfile(config)
    for part in ('train', 'val', 'test'):
        cfg[f'{part}_dataloader'].dataset.pop('metainfo')
    weights = torch.load(checkpoint, weights_only=False)
    weights = weights.get('state_dict', weights)
    for names, words in ((('a', 'b', 'c', 'd'), None), (('a', 'b'), r'num_classes=4, and there are 2 class names: a, b')):
        torch.save({'state_dict': weights, 'meta': {'dataset_meta': {'classes': names}}}, tmp_path / 'a.pth')
        if words is None:
            assert Predictor(cfg, tmp_path / 'a.pth', 'cpu').class_names == names
        else:
            with pytest.raises(InputError, match=words):
                Predictor(cfg, tmp_path / 'a.pth', 'cpu')


@pytest.mark.parametrize(
    ('settings', 'words'),
    [
        ({'score_thr': 1.5}, r'score_thr: 1\.5 is not a score from 0 to 1'),
        ({'score_thr': {'Rodd': 0.5}}, "'Rodd' is no class. Did you mean 'Rod'"),
        ({'mask_thr': 0}, 'mask_thr: 0 is not a probability'),
        ({'max_per_img': 0}, 'max_per_img: 0'),
        ({'classes': ['Rot']}, "'Rot' is no class of the model. Did you mean 'Rod'"),
        ({'classes': []}, 'none is named. There are: Disk'),
        ({'batch_size': 0}, 'batch_size: 0'),
        ({'device': 'abacus'}, "'abacus' cannot be used"),
        ({'cfg_options': [f'{part}dataset.pipeline=[]' for part in LOADERS] + ['test_pipeline=[]']}, 'no pipeline'),
        ({'cfg_options': ['test_dataloader.dataset.pipeline.1.type=Nonsense']}, 'the test pipeline cannot be built'),
    ],
)
def test_settings_that_cannot_be(config, checkpoint, settings, words):
    with pytest.raises(InputError, match=words):
        Predictor(config, checkpoint, **{'device': 'cpu', **settings})


def test_a_bad_image_is_named(predictor, paths, tmp_path):
    (tmp_path / 'bad.png').write_bytes(b'')
    with pytest.raises(InputError, match=r'bad\.png: the file is empty'):
        predictor([paths[0], tmp_path / 'bad.png'])


def test_an_image_without_instances(config, checkpoint):
    nothing = Predictor(config, checkpoint, 'cpu', score_thr=1.0)(np.full((64, 80, 3), 127, np.uint8))[0]
    assert nothing['masks'].shape == (0, 64, 80)
    assert {key: nothing[key].dtype for key in ARRAYS} == ARRAYS
    assert nothing['boxes'].shape == (0, 4)


def test_images_of_a_kind_of_their_own_are_found_in_the_original_size(predictor, tmp_path):
    list(write_part(tmp_path, 1, (0, 7), KINDS['shapes']))
    image = cv2.imread(str(next(tmp_path.glob('*.png'))))
    wide = cv2.copyMakeBorder(image, 0, 40, 0, 200, cv2.BORDER_REPLICATE)
    arrays = predictor(wide)[0]
    assert arrays['masks'].shape[1:] == wide.shape[:2]
    assert (arrays['boxes'] <= [wide.shape[1], wide.shape[0]] * 2).all()
