import numpy as np
import pytest
import torch
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from pycocotools import mask as coco_mask

from mmext.errors import InputError
from mmext.metrics import MaskQualityMetric
from mmext.metrics.mask_quality import encoded

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


def test_what_is_not_matched_is_counted(capsys):
    evaluate(sample([(0, 0, 10, 10), (20, 20, 30, 30)], [(0, 0, 10, 10), (0, 0, 10, 10), (40, 0, 50, 10)]))
    row = next(line for line in capsys.readouterr().out.splitlines() if 'all' in line)
    assert [cell.strip() for cell in row.split('│')[2:5]] == ['2', '1', '2']


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
    assert set(evaluate(sample([], []), classwise=False)) == {
        'mask/iou',
        'mask/coverage',
        'mask/area_ratio',
        'mask/union_iou',
    }


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
