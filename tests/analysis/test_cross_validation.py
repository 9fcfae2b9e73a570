import io
import json
import statistics

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmext.analysis.cross_validation import JOINED, collect, join
from mmext.analysis.predictions import FILES, file_hash, pack, read_predictions
from mmext.data.coco_file import read_coco
from mmext.errors import InputError


def detections(document, seed):
    """Of each object a detection that is moved a little, and some that are nothing, by image."""
    rng = np.random.default_rng(seed)
    found = {}
    for image in document['images']:
        size = image['height'], image['width']
        own = [one for one in document['annotations'] if one['image_id'] == image['id']]
        shift = rng.integers(-3, 4, (len(own) + 2, 2))
        masks, labels = [], []
        for one, (x, y) in zip([*own, *own[:2]], shift, strict=False):
            mask = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(one['segmentation'], *size)))
            masks.append(np.roll(mask, (y, x), (0, 1)))
            labels.append(one['category_id'] - 1)
        rles = [coco_mask.encode(np.asfortranarray(mask)) for mask in masks]
        boxes = np.array([coco_mask.toBbox(rle) for rle in rles]).reshape(-1, 4)
        found[image['id']] = {
            'image_id': image['id'],
            'size': list(size),
            'labels': np.array(labels),
            'scores': rng.random(len(rles)).astype(np.float32),
            'boxes': np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
            'rles': rles,
        }
    return found


def coco_numbers(path, images, kind):
    """pycocotools' AP of some images, the oracle."""
    import contextlib

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        results = []
        for image in images:
            for label, score, (x1, y1, x2, y2), rle in zip(
                image['labels'], image['scores'], np.float32(image['boxes']).astype(float), image['rles'], strict=True
            ):
                one = {'image_id': image['image_id'], 'category_id': int(label) + 1, 'score': float(score)}
                results.append(one | ({'segmentation': rle} if kind == 'segm' else {'bbox': [x1, y1, x2 - x1, y2 - y1]}))
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.params.imgIds = [image['image_id'] for image in images]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval['precision'][:, :, :, 0, -1]
    by_class = [precision[:, :, i][precision[:, :, i] > -1] for i in range(precision.shape[2])]
    return evaluation.stats, [float(one.mean()) if len(one) else None for one in by_class]


@pytest.fixture
def folds(demo_data, tmp_path):
    """Two folds of the made data, as their runs have left them."""
    path = demo_data / 'train' / 'annotations.json'
    document = json.loads(path.read_text())
    ids = [image['id'] for image in document['images']]
    found = detections(document, 0)

    class Folds:
        ann_file, folder, images, parts = path, tmp_path, found, (ids[::2], ids[1::2])
        work_dirs = (tmp_path / 'fold0', tmp_path / 'fold1')
        classes = ('Fiber', 'Fragment', 'Film')

        def write(self, fold, metrics=({'coco/segm_mAP': 0.5},), epoch=None, end=True, keep=True, which='last', part=None):
            start = self.work_dirs[fold] / '20260101_000000'
            (start / 'vis_data').mkdir(parents=True)
            lines = [
                line
                for i, one in enumerate(metrics, 1)
                for line in ({'loss': 1.0, 'epoch': i, 'step': i}, {**one, 'step': i})
            ]
            (start / 'vis_data/scalars.json').write_text('\n'.join(map(json.dumps, lines)) + '\n')
            (start / 'vis_data/config.py').write_text(f'train_cfg = dict(max_epochs={len(metrics)})\n')
            if end:
                (start / 'run_end.json').write_text('{"text": "Training ended.", "reason": "length"}')
            if keep:
                about = {
                    'epoch': epoch or len(metrics),
                    'iteration': 1,
                    'begin': 0,
                    'classes': self.classes,
                    'ann_file': 'val.json',
                    'sha256': f'of fold {fold}',
                    'metrics': {},
                }
                chosen = [self.images[one] for one in (part or self.parts[fold])]
                (start / FILES[which]).write_bytes(pack(chosen, about))

        def collect(self, **options):
            return collect(self.work_dirs, self.ann_file, self.folder, **options)

    return Folds()


def numbers_of(answer):
    return {one.name: one for one in answer.numbers}


def test_out_of_fold_is_one_score_over_all_images_and_equals_cocos(folds):
    for fold in range(2):
        folds.write(fold, [{'coco/segm_mAP': 0.25 + fold / 4, 'coco/bbox_mAP': 0.5, 'mask/iou': 0.7, 'val_loss': 2.0}])
    answer = folds.collect()
    found = numbers_of(answer)
    everything = list(folds.images.values())
    for kind, name in (('segm', 'mask'), ('bbox', 'box')):
        stats, by_class = coco_numbers(folds.ann_file, everything, kind)
        assert found[f'{name} AP'].pooled == pytest.approx(stats[0], abs=1e-9)
        assert found[f'{name} AP50'].pooled == pytest.approx(stats[1], abs=1e-9)
        assert [found[f'{name} AP, {one}'].pooled for one in folds.classes] == pytest.approx(by_class, abs=1e-9)
        for fold, part in enumerate(folds.parts):
            _, by_class = coco_numbers(folds.ann_file, [folds.images[one] for one in part], kind)
            assert [found[f'{name} AP, {one}'].folds[fold] for one in folds.classes] == pytest.approx(by_class, abs=1e-9)
    assert answer.images == 8
    # the mean is of what the folds' logs say, and another number
    assert found['mask AP'].folds == (0.25, 0.5)
    assert found['mask AP'].over_folds == pytest.approx((0.375, statistics.stdev([0.25, 0.5])))
    assert found['mask IoU'].over_folds == pytest.approx((0.7, 0))
    assert found['mask IoU'].pooled is None
    assert any('They are different numbers' in line for line in answer.remarks)


def test_the_joined_file_is_whole_and_in_the_order_of_the_annotation_file(folds):
    folds.write(0, part=folds.parts[0][::-1])
    folds.write(1)
    folds.collect()
    kept = read_predictions(folds.folder / JOINED)
    assert kept.about['image_ids'] == sorted(folds.images)
    assert kept.about['sha256'] == file_hash(folds.ann_file)
    assert [one['name'] for one in kept.about['folds']] == ['fold0', 'fold1']
    for image_id, first, last in kept.ranges():
        image = folds.images[image_id]
        assert kept.labels[first:last].tolist() == image['labels'].tolist()
        assert kept.scores[first:last] == pytest.approx(image['scores'])
        assert [rle['counts'] for rle in kept.rles[first:last]] == [rle['counts'] for rle in image['rles']]


def test_a_fold_that_has_not_ended_is_left_out_and_named(folds):
    folds.write(0)
    folds.write(1, end=False)
    (folds.work_dirs[1] / '20260101_000000/vis_data/config.py').write_text('train_cfg = dict(max_epochs=9)\n')
    answer = folds.collect()
    assert answer.unfinished == ('fold1',)
    assert answer.remarks[0] == 'Not finished, and left out: fold1.'
    assert 'There is no out-of-fold score: predictions are missing of fold1.' in answer.remarks
    assert numbers_of(answer)['mask AP'].folds == (0.5, None)
    assert numbers_of(answer)['mask AP'].over_folds == (0.5, None)
    assert not (folds.folder / JOINED).exists()
    record = answer.to_record()
    assert [one['finished'] for one in record['folds']] == [True, False]
    assert record['numbers']['mask AP'] == {'folds': [0.5, None], 'mean': 0.5, 'deviation': None, 'out_of_fold': None}


def test_without_any_end_there_is_nothing_to_put_together(folds):
    with pytest.raises(InputError, match='none of its 2 folds has come to its end'):
        folds.collect()


def test_best_and_last_validation_and_where_the_kept_predictions_are_of_another(folds):
    two = [{'coco/segm_mAP': 0.6}, {'coco/segm_mAP': 0.4}]
    for fold in range(2):
        folds.write(fold, two, epoch=2)
    best, last = folds.collect(), folds.collect(at='last')
    assert numbers_of(best)['mask AP'].folds == (0.6, 0.6)
    assert numbers_of(last)['mask AP'].folds == (0.4, 0.4)
    assert any('the epochs differ in fold0 (1 and 2), fold1 (1 and 2).' in line for line in best.remarks)
    assert any('the best of up to 2 validations' in line for line in best.remarks)
    assert not any('differ in' in line or 'best of up' in line for line in last.remarks)


@pytest.mark.parametrize(
    ('parts', 'words'),
    [
        (([1, 2, 3], [3, 4, 5, 6, 7, 8]), 'image 3 was predicted in two folds'),
        (([1, 2, 3], [5, 6, 7, 8]), r'1 images of .* were predicted in no fold: 4'),
    ],
)
def test_folds_that_do_not_part_the_images_have_no_out_of_fold_score(folds, parts, words):
    for fold in range(2):
        folds.write(fold, part=parts[fold])
    kept = [read_predictions(one / '20260101_000000' / FILES['last']) for one in folds.work_dirs]
    with pytest.raises(InputError, match=words):
        join(kept, read_coco(folds.ann_file))
    answer = folds.collect()
    assert answer.images == 0
    assert any(line.startswith('There is no out-of-fold score: ') for line in answer.remarks)
    assert numbers_of(answer)['mask AP, Fiber'].over_folds is not None


def test_the_table_fits_and_keeps_the_mean(folds, capsys):
    for fold in range(2):
        folds.write(fold, [{'coco/segm_mAP': 0.25 + fold / 4, 'mask/iou': 0.7, 'mask/iou_Fiber': 0.1}])
    answer = folds.collect()
    answer.print()
    text = capsys.readouterr().out
    line = next(line for line in text.splitlines() if line.startswith('mask AP '))
    assert line.split()[2:7] == ['0.250', '0.500', '0.375', '±', '0.177']
    assert 'mask AP, Fiber' in text
    assert 'iou_Fiber' not in text  # in the JSON
    assert 'mask/iou_Fiber' in answer.to_record()['numbers']
    narrow = answer.to_sheet().fitted(40, range(2, 0, -1))
    assert narrow.headings == ('number', 'mean±sd', 'out-of-fold')
