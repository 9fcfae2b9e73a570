import contextlib
import copy
import io
import json
import shutil

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from test_coco_ap import CLASSES, SIDE, about, made_validation, rectangle

from mmext.analysis import operating_point
from mmext.analysis.coco_ap import truth_of
from mmext.analysis.operating_point import (
    FILE,
    OperatingPoint,
    best_cut,
    make,
    operating_points,
    read,
    read_or_make,
    threshold_between,
    thresholds_for,
    write,
)
from mmext.analysis.predictions import FILES, file_hash, pack, read_predictions
from mmext.data.coco_file import CocoFile
from mmext.errors import InputError

# of a made validation with objects and operating points of every class
SEED = 72


def points_of(document, predictions, folder, kind='segm'):
    path = folder / 'predictions.npz'
    path.write_bytes(pack(predictions, about(document)))
    kept = read_predictions(path)
    file = CocoFile(folder / 'x.json', document['images'], document['annotations'], document['categories'])
    return operating_points(truth_of(file, kept.about['image_ids'], kept.about['classes']), kept, kind)


def rematched(document, predictions, label, threshold, kind):
    """Right, wrong and wanted ones of a class by COCOeval on the detections of this score and more alone."""
    found = [
        {'image_id': image['image_id'], 'category_id': 3 * label + 1, 'score': score}
        | ({'bbox': [float(v) for v in (x1, y1, x2 - x1, y2 - y1)]} if kind == 'bbox' else {'segmentation': dict(rle)})
        for image in predictions
        for label_, score, (x1, y1, x2, y2), rle in zip(
            *(image[key] for key in ('labels', 'scores', 'boxes', 'rles')), strict=True
        )
        if label_ == label and score >= threshold
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth, detected = COCO(), COCO()
        truth.dataset = copy.deepcopy(document)
        truth.createIndex()
        detected.dataset = {**truth.dataset, 'annotations': []}
        detected.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found) if found else detected, kind)
        evaluation.params.iouThrs, evaluation.params.catIds = np.array([0.5]), [3 * label + 1]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ['all']
        evaluation.params.maxDets = [10_000]
        evaluation.evaluate()
    images = [image for image in evaluation.evalImgs if image]
    right = sum(((image['dtMatches'] > 0) & ~image['dtIgnore'].astype(bool)).sum() for image in images)
    wrong = sum(((image['dtMatches'] == 0) & ~image['dtIgnore'].astype(bool)).sum() for image in images)
    wanted = sum((np.array(image['gtIgnore']) == 0).sum() for image in images)
    return int(right), int(wrong), int(wanted)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), images=st.integers(1, 3), kind=st.sampled_from(['segm', 'bbox']))
def test_it_is_the_best_of_matching_again_at_every_score(tmp_path_factory, seed, images, kind):
    document, predictions = made_validation(seed, images)
    for annotation in document['annotations']:
        annotation['id'] += 1  # of the id 0 COCOeval makes a miss
    points = points_of(document, predictions, tmp_path_factory.getbasetemp(), kind)
    assert [(point.label, point.name) for point in points] == list(enumerate(CLASSES))
    for point in points:
        scores = sorted(
            {s for image in predictions for s, label in zip(image['scores'], image['labels'], strict=True)
             if label == point.label}, reverse=True,
        )  # fmt: skip
        table = []
        for score in scores:
            right, wrong, wanted = rematched(document, predictions, point.label, score, kind)
            table.append((right, wrong, 2 * right / max(right + wrong + wanted, 1)))
        best = max((f1 for *_, f1 in table), default=0)
        wanted = rematched(document, predictions, point.label, 2, kind)[2]
        assert point.objects == wanted
        if not best:
            assert (point.threshold, point.precision, point.recall, point.f1) == (None,) * 4
            assert point.reason
            continue
        place = next(i for i, row in enumerate(table) if row[2] == best)
        right, wrong, _ = table[place]
        assert (point.precision, point.recall) == (right / (right + wrong), right / wanted)
        assert point.f1 == best
        kept = [score for score in scores if score >= point.threshold]
        assert kept == scores[: place + 1]
        assert [score for score in scores if np.float32(score) >= np.float32(point.threshold)] == kept


def test_an_annotation_with_the_id_0_is_an_object(tmp_path):
    document, predictions = made_validation(3, 6)
    expected = copy.deepcopy(document)
    for annotation in expected['annotations']:
        annotation['id'] += 1
    assert document['annotations'][0]['id'] == 0
    assert points_of(document, predictions, tmp_path) == points_of(expected, predictions, tmp_path)


single = st.floats(0, 1, width=32)


@settings(deadline=None)
@given(single, single)
@example(1.0, float(np.nextafter(np.float32(1), np.float32(0))))
@example(float(np.nextafter(np.float32(0.5), np.float32(1))), 0.5)
@example(float(np.nextafter(np.float32(0), np.float32(1))), 0.0)
@example(0.0, 0.0)
def test_the_threshold_lies_between_in_single_and_double_precision(first, second):
    kept, below = max(first, second), min(first, second)
    threshold = threshold_between(kept, below)
    assert below <= threshold <= kept
    assert float(np.float32(threshold)) == threshold
    if kept > below:
        assert below < threshold
        assert not np.float32(below) >= np.float32(threshold)


def test_it_is_the_middle_with_room_on_both_sides():
    assert threshold_between(0.75, 0.25) == 0.5
    assert threshold_between(0.5, 0.0) == 0.25


def test_of_equal_f1_the_highest_score_is_taken():
    # F1 is 2 · 1 / (1 + 3), 2 · 1 / (2 + 3), 2 · 2 / (5 + 3)
    hit = np.array([True, False, False, False, True])
    none = np.zeros(5, bool)
    assert best_cut(np.array([0.9, 0.8, 0.7, 0.6, 0.5]), hit, none, 3) == (1, 1.0, 1 / 3, 0.5)
    # what is equal in score is kept together: 2 · 2 / (3 + 3) of the last four is the best then
    score = np.array([0.9, 0.9, 0.5, 0.4, 0.3])
    assert best_cut(score, np.array([True, False, True, False, False]), none, 3) == (3, 2 / 3, 2 / 3, 2 / 3)
    # a detection that is neither right nor wrong is not worth a lower threshold
    ignored = np.array([False, True, False, False, False])
    score, hit = np.array([0.9, 0.8, 0.5, 0.4, 0.3]), np.array([True, False, False, False, False])
    assert best_cut(score, hit, ignored, 3) == (1, 1.0, 1 / 3, 0.5)


def test_all_detections_count_not_a_hundred(tmp_path):
    document, predictions = made_validation(0, 1)
    squares = [(6 * (i % 12), 6 * (i // 12)) for i in range(140)]
    one = {**predictions[0], 'labels': [0] * 140, 'scores': np.linspace(0.9, 0.2, 140).tolist()}
    outlines = [rectangle(x, y, 5, 5) for x, y in squares]
    one['rles'] = [coco_mask.frPyObjects(outline, SIDE, SIDE)[0] for outline in outlines]
    one['boxes'] = [[x, y, x + 5, y + 5] for x, y in squares]
    document['annotations'] = [
        {'id': i + 1, 'image_id': one['image_id'], 'category_id': 1, 'bbox': [x, y, 5, 5], 'area': 25, 'iscrowd': 0}
        | {'segmentation': outlines[i]}
        for i, (x, y) in enumerate(squares)
    ]
    point = points_of(document, [one], tmp_path)[0]
    assert (point.objects, point.detections, point.recall, point.precision) == (140, 140, 1, 1)
    assert point.threshold == pytest.approx(0.1)  # halfway from the last one to 0


def test_a_class_without_a_point_says_why(tmp_path):
    document, predictions = made_validation(SEED, 6)
    document['annotations'] = [{**document['annotations'][0], 'category_id': 4, 'iscrowd': 0}]
    for image in predictions:
        image['labels'] = [0] * len(image['labels'])
    nothing, none_found, film = points_of(document, predictions, tmp_path)
    assert nothing.reason == film.reason == 'the annotations have no object of the class'
    assert (nothing.objects, nothing.detections) == (0, sum(len(image['labels']) for image in predictions))
    assert (none_found.reason, none_found.objects, none_found.detections) == ('the model has detected none', 1, 0)
    for image in predictions:
        image['labels'] = [1] * len(image['labels'])
        image['rles'] = [coco_mask.frPyObjects(rectangle(198, 198, 2, 2), SIDE, SIDE)[0]] * len(image['rles'])
    _, missed, _ = points_of(document, predictions, tmp_path)
    total = sum(len(image['labels']) for image in predictions)
    assert missed.reason == f'none of {total} detections matches an object'
    assert (missed.threshold, missed.f1) == (None, None)


# ---- with a run


@pytest.fixture
def run(tmp_path):
    """A work_dir with the predictions of two validations, the fourth epoch's and the best, which was the second's."""
    document, predictions = made_validation(SEED, 6)
    file = tmp_path / 'annotations.json'
    file.write_text(json.dumps(document))
    work_dir = tmp_path / 'run'
    start = work_dir / '20260101_000000'
    start.mkdir(parents=True)

    def keep(which, epoch, images=predictions, **more):
        changes = {'ann_file': str(file), 'sha256': file_hash(file), 'epoch': epoch, 'iteration': 10 * epoch, **more}
        (start / FILES[which]).write_bytes(pack(images, about(document, **changes)))

    keep('last', 4)
    keep('best', 2, [{**image, 'scores': [score / 2 for score in image['scores']]} for image in predictions])
    keep.work_dir, keep.file, keep.start, keep.predictions = work_dir, file, start, predictions
    return keep


def test_what_is_written_is_read_again(run):
    made = make(run.work_dir)
    assert list(made) == ['best', 'last']
    path = write(run.work_dir, made)
    assert path == run.work_dir / FILE
    assert read(path) == made
    record = json.loads(path.read_text())
    best = record['validations']['best']
    assert (record['schema_version'], record['iou'], best['epoch'], best['iteration']) == (1, 0.5, 2, 20)
    assert (best['predictions'], best['ann_sha256']) == ('20260101_000000/predictions_best.npz', file_hash(run.file))
    assert [point['name'] for point in best['points']] == list(CLASSES)
    for half, whole in zip(made['best'].points, made['last'].points, strict=True):
        assert (half.precision, half.recall, half.f1) == (whole.precision, whole.recall, whole.f1)
        assert whole.threshold is None or half.threshold == pytest.approx(whole.threshold / 2)


def test_what_is_kept_is_used_until_the_predictions_change(run):
    made = read_or_make(run.work_dir)
    write(run.work_dir, made)
    moved = run.file.rename(run.file.with_name('moved.json'))  # not looked at any more
    assert read_or_make(run.work_dir) == made
    moved.rename(run.file)
    run('last', 5, run.predictions[:3], ann_file='/gone.json')
    with pytest.raises(InputError, match=r'/gone\.json, cannot be read: No such file'):
        read_or_make(run.work_dir)


def test_newer_predictions_are_taken_in_place_of_what_is_kept(run):
    write(run.work_dir, make(run.work_dir))
    run('last', 5, run.predictions)
    assert read_or_make(run.work_dir)['last'].epoch == 5


def test_the_file_alone_will_do(run, tmp_path):
    made = make(run.work_dir)
    copied = tmp_path / 'copied'
    copied.mkdir()
    shutil.copy(write(run.work_dir, made), copied)
    assert read_or_make(copied) == made
    (copied / FILE).write_text('{"schema_version": 1, "validations"')
    with pytest.raises(InputError, match=rf'copied/{FILE}: not a file of operating points \(JSONDecodeError: .* Delete it'):
        read_or_make(copied)
    (copied / FILE).write_text('{"schema_version": 9}')
    with pytest.raises(InputError, match=r'version 9, this mmext reads 1\. Delete it: it is made again'):
        read_or_make(copied)
    point = OperatingPoint(0, 'Fiber', '0.5', None, None, None, 1, 1)
    text = json.dumps({'schema_version': 1, 'validations': {'last': {'points': [vars(point)]}}})
    (copied / FILE).write_text(text)
    with pytest.raises(InputError, match=r"'Fiber' has the threshold '0\.5'"):
        read_or_make(copied)
    # beside predictions it is made again
    shutil.copy(copied / FILE, run.work_dir)
    assert read_or_make(run.work_dir) == made


def test_an_annotation_file_that_moved_can_be_named(run, tmp_path):
    moved = run.file.rename(tmp_path / 'moved.json')
    with pytest.raises(InputError, match='Say where it lies now'):
        make(run.work_dir)
    assert make(run.work_dir, moved)['last'].ann_file == str(moved)
    moved.write_text(moved.read_text() + ' ')
    with pytest.raises(InputError, match='has changed since the validation'):
        make(run.work_dir, moved)


def test_a_run_without_predictions_says_how_to_keep_them(tmp_path):
    with pytest.raises(InputError, match=r'no predictions of a validation were kept in it.*mmext\.PredictionsHook.*number'):
        read_or_make(tmp_path)


def test_a_model_without_masks_is_matched_by_boxes(run):
    run('best', 2, [{key: value for key, value in image.items() if key != 'rles'} for image in run.predictions])
    made = make(run.work_dir)
    assert (made['best'].kind, made['last'].kind) == ('bbox', 'segm')
    assert 'box IoU 0.5' in made['best'].to_lines()[0]


def test_the_same_predictions_are_matched_once(run, monkeypatch):
    for which in ('last', 'best'):
        run(which, 4)
    calls = []
    original = operating_point.match_all
    monkeypatch.setattr(operating_point, 'match_all', lambda *arguments: calls.append(1) or original(*arguments))
    made = make(run.work_dir)
    assert (made['best'].points, len(calls)) == (made['last'].points, 1)


@pytest.mark.parametrize(
    ('name', 'epoch', 'words'),
    [
        ('best_coco_segm_mAP_epoch_2.pth', 2, None),
        ('epoch_2.pth', 2, None),
        ('epoch_4.pth', 4, None),
        ('iter_40.pth', 4, None),
        ('best_coco_segm_mAP_iter_20.pth', 2, None),
        ('epoch_3.pth', 4, 'They are of the last validation: none of epoch_3.pth itself was kept.'),
        ('best_coco_segm_mAP_epoch_3.pth', 2, 'They are of the best validation: none of best_coco_segm_mAP_epoch_3.pth'),
        ('model.pth', 2, 'They are of the best validation: none of model.pth itself was kept.'),
    ],
)
def test_a_checkpoint_has_the_thresholds_of_its_own_validation(run, name, epoch, words):
    made = make(run.work_dir)
    which = {2: 'best', 4: 'last'}[epoch]
    thresholds, lines = thresholds_for(run.work_dir / name, CLASSES)
    assert thresholds == {point.name: point.threshold for point in made[which].points}
    assert lines[0] == f'Thresholds of best F1 in the validation of epoch {epoch} (6 images, mask IoU 0.5):'
    fiber = made[which].points[0]
    assert lines[1].startswith(f'  Fiber: {fiber.threshold:.3f} (precision {fiber.precision:.3f}, recall ')
    assert (words is None and len(lines) == 4) or words in lines[4]


def test_a_class_without_a_point_falls_back_and_says_so(run):
    images = [{**image, 'labels': [2 if label == 1 else label for label in image['labels']]} for image in run.predictions]
    run('last', 4, images)
    thresholds, lines = thresholds_for(run.work_dir / 'epoch_4.pth', CLASSES)
    assert thresholds['Fragment'] == 0.5
    assert lines[2] == '  Fragment: none, the model has detected none'
    assert lines[-1] == '  Fragment: 0.5 is taken, as there is no operating point.'


def test_other_classes_are_refused(run):
    for classes in (('Fiber', 'Fragment'), ('Fiber', 'Fragment', 'Foil'), CLASSES[::-1]):
        with pytest.raises(InputError) as error:
            thresholds_for(run.work_dir / 'epoch_4.pth', classes)
        assert f'of the classes Fiber, Fragment, Film; the model has {", ".join(classes)}.' in str(error.value)
