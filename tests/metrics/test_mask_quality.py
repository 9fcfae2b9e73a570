import math
import pickle
from collections import Counter

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.dataset import DefaultSampler
from pycocotools import mask as coco_mask
from scipy import ndimage
from skimage.morphology import skeletonize

from mmext.analysis.mask_match import Objects
from mmext.errors import InputError
from mmext.metrics import MaskQualityMetric
from mmext.metrics.mask_quality import by_part, compare_image, encoded, merge, summarize

CLASSES = ('Fiber', 'a/b')
SIZE = (40, 60)


def drawn(*boxes):
    """Bitmaps of rectangles x1, y1, x2, y2."""
    masks = np.zeros((len(boxes), *SIZE), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = 1
    return masks


def sample(truth, found, labels=None, found_labels=None, scores=None, masks=None, found_masks=None):
    boxes = torch.tensor(truth, dtype=torch.float32).reshape(-1, 4)
    predicted = torch.tensor(found, dtype=torch.float32).reshape(-1, 4)
    masks = drawn(*truth) if masks is None else masks
    return {
        'ori_shape': SIZE,
        'gt_instances': {
            'bboxes': boxes,
            'labels': torch.tensor(labels or [0] * len(truth), dtype=torch.long),
            'masks': BitmapMasks(masks, *SIZE) if isinstance(masks, np.ndarray) else masks,
        },
        'pred_instances': {
            'bboxes': predicted,
            'labels': torch.tensor(found_labels or [0] * len(found), dtype=torch.long),
            'scores': torch.tensor(scores or [0.9] * len(found)),
            'masks': torch.from_numpy(drawn(*found) if found_masks is None else found_masks).bool(),
        },
    }


def evaluate(*samples, **arguments):
    metric = MaskQualityMetric(**arguments)
    metric.dataset_meta = {'classes': CLASSES}
    for one in samples:
        metric.process({}, [one])
    return metric.evaluate(size=len(samples))


def test_figures_of_one_small_mask():
    half = drawn((0, 0, 10, 5))
    found = evaluate(sample([(0, 0, 10, 10)], [(0, 0, 10, 10)], found_masks=half))
    assert {key: found[f'mask/{key}'] for key in ('iou', 'coverage', 'area_ratio', 'union_iou')} == pytest.approx(
        {'iou': 0.5, 'coverage': 0.5, 'area_ratio': 0.5, 'union_iou': 0.5}
    )
    assert found['mask/iou_Fiber'] == found['mask/iou']
    assert [found[f'mask/{key}_a_b'] for key in ('iou', 'coverage', 'area_ratio', 'union_iou')] == [-1] * 4


def test_the_gap_is_between_box_and_mask():
    half = drawn((0, 0, 10, 5))
    found = evaluate(sample([(0, 0, 10, 10)], [(0, 0, 10, 8)], found_masks=half))
    assert found['mask/gap'] == pytest.approx(0.8 - 0.5)
    assert found['mask/gap_Fiber'] == found['mask/gap_area_small'] == found['mask/gap']


def test_too_large_a_mask_covers_all():
    found = evaluate(sample([(0, 0, 10, 10)], [(0, 0, 10, 16)]))
    assert (found['mask/coverage'], found['mask/area_ratio']) == pytest.approx((1.0, 1.6))
    assert found['mask/iou'] == pytest.approx(10 / 16)


def test_means_are_over_pairs_and_union_over_images():
    first = sample([(0, 0, 10, 10), (20, 0, 30, 10)], [(0, 0, 10, 10), (20, 0, 30, 8)], scores=[0.9, 0.8])
    second = sample([(0, 0, 10, 10)], [(0, 0, 10, 6)], labels=[1], found_labels=[1])
    found = evaluate(first, second)
    assert found['mask/iou'] == pytest.approx((1 + 0.8 + 0.6) / 3)
    assert (found['mask/iou_Fiber'], found['mask/iou_a_b']) == pytest.approx((0.9, 0.6))
    assert found['mask/union_iou'] == pytest.approx((100 / 200 + 0.6) / 2)
    assert found['mask/union_iou_Fiber'] == pytest.approx(0.5)


def rows(text):
    """Cells of the table by the first of each row."""
    lines = [[cell.strip() for cell in line.split('│')[1:-1]] for line in text.splitlines()]
    return {cells[0]: cells[1:] for cells in lines if cells}


def test_what_is_not_matched_is_counted(capsys):
    evaluate(sample([(0, 0, 10, 10), (20, 20, 30, 30)], [(0, 0, 10, 10), (0, 0, 10, 10), (40, 0, 50, 10)]))
    assert rows(capsys.readouterr().out)['all'][:3] == ['2', '1', '2']


def squares(*sides, score=None):
    """Objects of an image of 300 x 400 that lie beside each other, 120 px apart."""
    drawn = np.zeros((len(sides), 300, 400), np.uint8)
    boxes = np.array([[120 * i, 0, side, side] for i, side in enumerate(sides)], float).reshape(-1, 4)
    for mask, (x, _, side, _) in zip(drawn, boxes.astype(int), strict=True):
        mask[:side, x : x + side] = 1
    rles = [coco_mask.encode(np.asfortranarray(mask)) for mask in drawn]
    return Objects(boxes, rles, np.zeros(len(sides), int), None if score is None else np.full(len(sides), score))


def test_sizes_are_those_of_the_ground_truths_masks():
    sums = by_part(compare_image(squares(31, 32, 96), squares(33, 32, 90, score=0.9)))
    small, medium, large = (summarize(sums, size) for size in ('small', 'medium', 'large'))
    assert (small.objects, medium.objects, large.objects) == (1, 1, 1)
    found = [row.means['iou'] for row in (small, medium, large)]
    assert found == pytest.approx([(31 / 33) ** 2, 1, (90 / 96) ** 2])
    assert summarize(sums, None).means['iou'] == pytest.approx(sum(found) / 3)


def test_what_matches_no_object_has_the_size_of_its_own_mask():
    sums = by_part(compare_image(squares(), squares(31, 32, 97, score=0.9)))
    assert [summarize(sums, size).unmatched for size in ('small', 'medium', 'large', None)] == [1, 1, 1, 3]
    assert set(summarize(sums, 'small').means.values()) == {-1}


def test_centre_line_is_of_thin_objects_alone():
    fibre = [(0, 0, 48, 4)]
    found = evaluate(sample(fibre, [(0, 0, 24, 4)]))
    assert 0.5 < found['mask/centerline_recall'] < 0.6
    assert evaluate(sample([(0, 0, 10, 10)], [(0, 0, 10, 10)]))['mask/centerline_recall'] == -1
    assert evaluate(sample(fibre, [(0, 20, 48, 24)]))['mask/centerline_recall'] == 0
    both = evaluate(sample([*fibre, (0, 20, 10, 30)], [(0, 0, 48, 4), (0, 20, 10, 29)]))
    assert both['mask/centerline_recall'] == 1


def test_share_of_objects_that_the_band_covers(capsys):
    # the band of an image of 40 x 60 is 1 px wide: 2 rows are band alone, 10 are not
    found = evaluate(sample([(0, 0, 20, 2), (0, 10, 20, 20)], [(0, 0, 20, 2), (0, 10, 20, 20)]))
    assert (found['mask/swallowed'], found['mask/boundary_iou']) == (0.5, 1)
    assert 'covers 1 of 2 matched objects whole' in capsys.readouterr().out


def test_the_table_fits_a_pipe(capsys):
    evaluate(sample([(0, 0, 48, 4)] * 3, [(0, 0, 48, 4)] * 2))
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 120
    assert '…' not in text
    assert rows(text)['all'] == ['3', '2', '0', *['1.000'] * 2, '0.000', *['1.000'] * 4]
    assert rows(text)['small'][-1] == '-'  # an image's union has no size
    assert rows(text)['large'] == ['0', '0', '0', *['-'] * 7]


def test_every_key_is_there_without_detections_or_objects():
    none = evaluate(sample([(0, 0, 10, 10)], []))
    assert none['mask/iou'] == none['mask/coverage'] == none['mask/union_iou'] == 0
    assert none['mask/iou_a_b'] == -1
    empty = evaluate(sample([], [(0, 0, 10, 10)]))
    assert set(empty) == set(none)
    assert set(empty.values()) == {-1}


def test_a_mask_without_pixels_is_no_division_by_zero():
    found = evaluate(sample([(0, 0, 10, 10)], [(0, 0, 10, 10)], masks=drawn((0, 0, 0, 0))))
    assert (found['mask/iou'], found['mask/coverage']) == (0, 0)


def test_values_are_pycocotools_own():
    rng = np.random.default_rng(0)
    boxes = [(int(x), int(y), int(x) + 20, int(y) + 16) for x, y in rng.integers(0, 20, (6, 2))]
    truth, guess = ((drawn(*boxes) * (rng.random((6, *SIZE)) < share)).astype(np.uint8) for share in (0.9, 0.7))
    for i in range(6):
        found = evaluate(sample([boxes[i]], [boxes[i]], masks=truth[[i]], found_masks=guess[[i]]))
        rles = [coco_mask.encode(np.asfortranarray(masks[i])) for masks in (truth, guess)]
        assert found['mask/iou'] == pytest.approx(coco_mask.iou([rles[1]], [rles[0]], [0])[0, 0], abs=1e-6)
        assert found['mask/coverage'] == pytest.approx((truth[i] & guess[i]).sum() / truth[i].sum(), abs=1e-6)
        assert found['mask/area_ratio'] == pytest.approx(guess[i].sum() / truth[i].sum(), abs=1e-6)


def noisy(rng):
    """An image of one to three objects of both classes, each found in a part of it."""
    boxes = [(int(x), int(y), int(x) + 20, int(y) + 16) for x, y in rng.integers(0, 20, (rng.integers(1, 4), 2))]
    labels = rng.integers(0, 2, len(boxes)).tolist()
    guess = (drawn(*boxes) * (rng.random((len(boxes), *SIZE)) < 0.8)).astype(np.uint8)
    scores = rng.random(len(boxes)).tolist()
    return sample(boxes, boxes, labels=labels, found_labels=labels, scores=scores, found_masks=guess)


def metric_of(samples):
    metric = MaskQualityMetric()
    metric.dataset_meta = {'classes': CLASSES}
    for one in samples:
        metric.process({}, [one])
    return metric


def test_memory_does_not_grow_with_the_images():
    samples = [noisy(np.random.default_rng(seed)) for seed in range(20)]
    few, many = (len(pickle.dumps(metric_of(samples * times).results)) for times in (1, 20))
    assert many < 1.05 * few  # the same sums, with another digit


@pytest.mark.parametrize('processes', [2, 3, 4])
@pytest.mark.parametrize('images', [1, 2, 7, 8])
def test_any_number_of_processes_gives_the_very_same_numbers(monkeypatch, processes, images):
    samples = [noisy(np.random.default_rng(seed)) for seed in range(images)]
    parts = []
    for rank in range(processes):
        monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda rank=rank: (rank, processes))
        parts += metric_of([samples[i] for i in DefaultSampler(samples, shuffle=False)]).results
    one = metric_of(samples[::-1])
    assert merge(parts, images) == merge(one.results, images)
    several = metric_of([])
    several.results, several._images = parts, images
    alone = one.evaluate(size=images)
    assert {f'mask/{key}': value for key, value in several.compute_metrics(parts).items()} == alone


def test_a_sampler_that_repeats_more_is_an_error():
    with pytest.raises(InputError, match=r'5 images were predicted, the data set has 3. Only the last.*DefaultSampler'):
        metric_of([noisy(np.random.default_rng(0))] * 5).evaluate(size=3)


def test_results_that_are_taken_apart_are_an_error():
    metric = metric_of([noisy(np.random.default_rng(0))])
    with pytest.raises(InputError, match='an evaluator that takes results apart by image is not supported'):
        metric.compute_metrics(metric.results[0:1])


def test_polygons_are_those_of_pycocotools(demo_data):
    """Ground truth as the data set loads it, against annToRLE of the file."""
    from mmdet.datasets.api_wrappers import COCO
    from mmengine.registry import init_default_scope
    from mmengine.runner import Runner

    from mmext.metrics.mask_quality import truth_of
    from mmext.optim.group_report import load_config

    init_default_scope('mmdet')
    cfg = load_config('mask-rcnn_r18_fpn_finetune')
    cfg.val_dataloader.dataset.data_root = str(demo_data)
    cfg.val_dataloader.dataset.ann_file = 'val/annotations.json'
    cfg.val_dataloader.dataset.data_prefix = {'img': 'val/'}
    coco = COCO(str(demo_data / 'val' / 'annotations.json'))
    compared = 0
    for item in Runner.build_dataloader(cfg.val_dataloader, seed=0).dataset:
        image = item['data_samples'].to_dict()
        truth = truth_of(image)
        expected = [coco.annToRLE(annotation) for annotation in coco.imgToAnns[image['img_id']]]
        assert [rle['counts'] for rle in truth.rles] == [rle['counts'] for rle in expected]
        compared += len(expected)
    assert compared > 10


def test_a_model_without_boxes_is_matched_by_those_of_its_masks():
    one = sample([(0, 0, 10, 10), (20, 0, 30, 10)], [(20, 0, 30, 10), (0, 0, 10, 8)])
    one['pred_instances']['bboxes'].zero_()
    assert evaluate(one)['mask/iou'] == pytest.approx(0.9)


def test_masks_are_encoded_once_for_all_metrics():
    masks = torch.ones(2, 4, 4, dtype=torch.bool)
    first = encoded(masks)
    assert encoded(masks) is first
    assert encoded(first) is first


def test_results_can_still_be_dumped_behind_our_metrics(demo_data):
    """``mim test --out FILE`` appends DumpDetResults, which wants the masks as a tensor."""
    from mmdet.evaluation import DumpDetResults

    from mmext.metrics import CocoMetric

    one = sample([(0, 0, 10, 10)], [(0, 0, 10, 8)])
    one['img_id'] = 1
    for metric in (
        CocoMetric(ann_file=str(demo_data / 'val' / 'annotations.json'), metric=['bbox', 'segm']),
        MaskQualityMetric(),
        DumpDetResults(out_file_path='unused.pkl'),
    ):
        metric.process({}, [one])
    assert metric.results[0]['pred_instances']['masks'][0]['size'] == list(SIZE)


def test_ground_truth_of_the_resized_image_is_scaled_back():
    one = sample([(0, 0, 20, 20)], [(0, 0, 10, 10)])
    one['img_shape'] = (80, 120)
    one['gt_instances']['masks'] = PolygonMasks([[np.array([0.0, 0, 20, 0, 20, 20, 0, 20])]], 80, 120)
    assert evaluate(one)['mask/iou'] == pytest.approx(1)


def test_class_names_of_any_kind(capsys):
    metric = MaskQualityMetric()
    metric.dataset_meta = {'classes': ('all', 'a/b', 'a_b', 'PE [/PP]')}
    metric.process({}, [sample([(0, 0, 10, 10)], [(0, 0, 10, 5)], labels=[1], found_labels=[1])])
    found = metric.evaluate(size=1)
    assert (found['mask/iou'], found['mask/iou_all'], found['mask/iou_a_b_1'], found['mask/iou_a_b_2']) == (0.5, -1, 0.5, -1)
    assert 'PE [/PP]' in capsys.readouterr().out
    assert not [key for key in evaluate(sample([], []), classwise=False) if 'Fiber' in key or 'a_b' in key]


def test_a_class_may_have_the_name_of_a_size(capsys):
    metric = MaskQualityMetric()
    metric.dataset_meta = {'classes': ('area_small', 'small')}
    metric.process({}, [sample([(0, 0, 10, 10)], [(0, 0, 10, 5)], labels=[1], found_labels=[1])])
    found = metric.evaluate(size=1)
    assert [found[f'mask/iou_{part}'] for part in ('area_small', 'area_small_0', 'small')] == [0.5, -1, 0.5]


def test_ground_truth_in_other_pixels_is_an_error():
    one = sample([(0, 0, 10, 10)], [(0, 0, 10, 10)])
    one['gt_instances']['masks'] = PolygonMasks([[np.array([0.0, 0, 9, 0, 9, 9])]], 20, 30)
    with pytest.raises(InputError, match=r'the ground truth is 20 x 30, the original image 40 x 60. Load the masks after'):
        evaluate(one)
    del one['gt_instances']['masks']
    with pytest.raises(InputError, match='loads no masks'):
        evaluate(one)


def test_a_wrong_threshold_is_an_error():
    with pytest.raises(InputError, match='box_iou is 0; it must be above 0 and at most 1'):
        MaskQualityMetric(box_iou=0)


# ---- the same numbers, computed one by one on whole images


DISC = np.hypot(*np.mgrid[-2:3, -2:3]) <= 2


def pairs_of(truth, prediction, box_iou):
    """The prediction of each object that has one."""
    free, pairs = list(range(len(truth.labels))), {}
    for j in sorted(range(len(prediction.labels)), key=lambda j: -prediction.scores[j]):
        overlaps = {
            i: coco_mask.iou(prediction.boxes[[j]], truth.boxes[[i]], [0])[0, 0]
            for i in free
            if truth.labels[i] == prediction.labels[j]
        }
        best = max(overlaps, key=overlaps.get, default=None)
        if best is not None and overlaps[best] >= box_iou:
            free.remove(best)
            pairs[best] = j, overlaps[best]
    return pairs


def thin(mask):
    width = 2 * float(cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5).max())
    return mask.sum() >= 12 and bool(mask.sum() >= 3 * width**2)


def iou(mask, other):
    return (mask & other).sum() / max((mask | other).sum(), 1)


def values_of(mask, found, box_overlap):
    """Of a pair of masks (H, W) bool."""
    band = max(1, round(0.02 * math.hypot(*mask.shape)))
    rims = [one & ~ndimage.binary_erosion(one, np.ones((3, 3)), band) for one in (mask, found)]
    values = {
        'iou': iou(mask, found),
        'boundary_iou': iou(*rims),
        'gap': box_overlap - iou(mask, found),
        'swallowed': float((rims[0] == mask).all()),
    }
    if mask.any():
        values |= {'coverage': (mask & found).sum() / mask.sum(), 'area_ratio': found.sum() / mask.sum()}
    if thin(mask):
        values['centerline_recall'] = ndimage.binary_dilation(found, DISC)[skeletonize(mask)].mean()
    return values


def plainly(truth, prediction, box_iou):
    """What an image adds to the sums."""
    sums = Counter()

    def add(parts, name, value):
        for part in parts:
            sums[part, name] += round(math.ldexp(value, 60))
            sums[part, name, 'n'] += 1

    masks, guesses = ([coco_mask.decode(rle).astype(bool) for rle in one.rles] for one in (truth, prediction))
    pairs = pairs_of(truth, prediction, box_iou)
    for i, mask in enumerate(masks):
        parts = None, truth.labels[i], size_of(mask)
        sums.update((part, 'objects') for part in parts)
        sums.update((part, 'thin') for part in parts if thin(mask))
        if i in pairs:
            j, overlap = pairs[i]
            sums.update((part, 'matched') for part in parts)
            for name, value in values_of(mask, guesses[j], overlap).items():
                add(parts, name, value)
    for j in set(range(len(guesses))) - {j for j, _ in pairs.values()}:
        sums.update((part, 'unmatched') for part in (None, prediction.labels[j], size_of(guesses[j])))
    for label in {None, *truth.labels.tolist()} if masks else ():
        chosen = [mask for mask, one in zip(masks, truth.labels, strict=True) if label in (None, one)]
        rivals = [j for j, one in enumerate(prediction.labels) if label in (None, one)]
        best = max(rivals, key=lambda j: prediction.scores[j], default=None)
        add((label,), 'union_iou', 0.0 if best is None else iou(np.any(chosen, 0), guesses[best]))
    return sums


def size_of(mask):
    return 'small' if mask.sum() < 32**2 else 'medium' if mask.sum() < 96**2 else 'large'


@st.composite
def images(draw):
    """Objects and detections of one image, moved and changed or anywhere: blobs, lines, specks, masks without a pixel."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width = draw(st.tuples(*[st.integers(1, 150)] * 2))

    def anything():
        mask = np.zeros((height, width), np.uint8)
        corners = rng.integers(0, (width, height), (rng.integers(2, 5), 2))
        cv2.polylines(mask, [corners], False, 1, int(rng.integers(1, 8)))
        if rng.random() < 0.4:
            cv2.fillPoly(mask, [corners], 1)
        return mask * (rng.random(mask.shape) < rng.choice([0, 0.9, 1, 1, 1]))

    masks = [anything() for _ in range(draw(st.integers(0, 5)))]
    found = [anything() for _ in range(draw(st.integers(0, 3)))]
    for mask in masks * draw(st.integers(0, 2)):
        moved = np.roll(mask, rng.integers(-2, 3, 2), (0, 1))
        change = [lambda one, _: one, cv2.dilate, cv2.erode][rng.integers(3)]
        found.append(change(moved.astype(np.uint8), np.ones((3, 3), np.uint8)))
    labels = [rng.integers(0, draw(st.integers(1, 2)), len(side)) for side in (masks, found)]
    scores = rng.choice([0.9, 0.5, 0.1, rng.random()], len(found))
    return objects_of(masks, labels[0], height, width), objects_of(found, labels[1], height, width, scores)


def objects_of(masks, labels, height, width, scores=None):
    drawn = np.array(masks, np.uint8).reshape(-1, height, width)
    rles = coco_mask.encode(np.asfortranarray(drawn.transpose(1, 2, 0)))
    return Objects(coco_mask.toBbox(rles).reshape(-1, 4), rles, labels, scores)


@given(images(), st.sampled_from([0.01, 0.5, 0.75]))
@settings(deadline=None, max_examples=300)
def test_sums_are_those_of_whole_images_to_the_bit(sides, box_iou):
    assert by_part(compare_image(*sides, box_iou)) == plainly(*sides, box_iou)
