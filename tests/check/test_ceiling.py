import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.structures.mask.mask_target import mask_target_single
from mmengine.config import ConfigDict
from mmengine.registry import TRANSFORMS, init_default_scope
from pycocotools import mask as coco_mask

from mmext.analysis.findings import is_problem
from mmext.check.ceiling import ceiling, grid_remedy, instance_ceilings, own_grid
from mmext.check.parts import data_parts
from mmext.data.coco_file import read_coco
from mmext.data.demo import write_part
from mmext.optim.group_report import load_config

GRIDS = [(14, 14), (28, 28), (56, 56), (112, 112)]


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp('demo')
    for _ in write_part(folder, 12, (0, 0)):
        pass
    return read_coco(folder / 'annotations.json')


def part_of(cfg, coco):
    return replace(data_parts(cfg)[0], coco=coco)


def written(tmp_path, images, annotations, names=('Fiber', 'Fragment', 'Film')):
    categories = [{'id': i + 1, 'name': name} for i, name in enumerate(names)]
    path = tmp_path / 'made.json'
    path.write_text(json.dumps({'images': images, 'annotations': annotations, 'categories': categories}))
    return read_coco(path)


def entry(number, polygon, category=1, image=1):
    points = np.array(polygon, float).reshape(-1, 2)
    (left, top), (right, bottom) = points.min(0), points.max(0)
    return {
        'id': number,
        'image_id': image,
        'category_id': category,
        'segmentation': [np.ravel(points).tolist()],
        'bbox': [left, top, right - left, bottom - top],
        'area': (right - left) * (bottom - top),
        'iscrowd': 0,
    }


def as_rle(annotation, height, width):
    rle = coco_mask.merge(coco_mask.frPyObjects(annotation['segmentation'], height, width))
    return {**annotation, 'segmentation': {'size': [height, width], 'counts': rle['counts'].decode()}}


def full_path(annotation, image, scale, grid, loader, soft=False):
    """The IoU over masks of the whole image, by MMDetection's pipeline, target and head."""
    init_default_scope('mmdet')
    x, y, w, h = annotation['bbox']
    results = {
        'img': np.zeros((image['height'], image['width'], 3), np.uint8),
        'img_shape': (image['height'], image['width']),
        'ori_shape': (image['height'], image['width']),
        'height': image['height'],
        'width': image['width'],
        'instances': [{'bbox': [x, y, x + w, y + h], 'bbox_label': 0, 'ignore_flag': 0, 'mask': annotation['segmentation']}],
    }
    for step in (loader, {'type': 'Resize', 'scale': scale, 'keep_ratio': True}):
        results = TRANSFORMS.build(step)(results)
    boxes = results['gt_bboxes'].tensor
    cfg = ConfigDict(mask_size=grid, soft_mask_target=soft)
    target = mask_target_single(boxes.clone(), torch.zeros(1, dtype=torch.long), results['gt_masks'], cfg)
    meta = {'scale_factor': results['scale_factor'], 'ori_shape': results['ori_shape']}
    prediction = target[:, None] if soft else (target[:, None] * 2 - 1) * 50  # probabilities, or logits of certainty
    mask = (
        FCNMaskHead(num_convs=0, num_classes=1)
        ._predict_by_feat_single(
            prediction,
            boxes,
            torch.zeros(1, dtype=torch.long),
            meta,
            ConfigDict(mask_thr_binary=0.5),
            True,
            activate_map=soft,
        )[0]
        .numpy()
    )
    truth = annotation['segmentation']
    if isinstance(truth, list):
        truth = coco_mask.merge(coco_mask.frPyObjects(truth, image['height'], image['width']))
    truth = coco_mask.decode(truth).astype(bool)
    return np.count_nonzero(mask & truth) / np.count_nonzero(mask | truth)


@pytest.mark.parametrize('form', ['polygons', 'drawn polygons', 'rle', 'soft'])
@pytest.mark.parametrize('scale', [(256, 256), (1333, 800), (200, 150)])
def test_windows_give_the_numbers_of_masks_of_the_whole_image(demo, form, scale):
    images = {image['id']: image for image in demo.images}
    loader = {
        'polygons': {'type': 'LoadAnnotations', 'with_bbox': True, 'with_mask': True, 'poly2mask': False},
        'rle': {'type': 'mmext.LoadInstanceMasks'},
    }.get(form, {'type': 'LoadAnnotations', 'with_bbox': True, 'with_mask': True, 'poly2mask': True})
    for annotation in demo.annotations[::9]:
        image = images[annotation['image_id']]
        if form == 'rle':
            annotation = as_rle(annotation, image['height'], image['width'])
        side = round(256 * min(max(scale) / 256, min(scale) / 256))
        ours = instance_ceilings(annotation, image, (side, side), GRIDS, form in ('drawn polygons', 'soft'), form == 'soft')
        whole = [full_path(annotation, image, scale, grid, loader, form == 'soft') for grid in GRIDS]
        assert ours == whole


def test_demo_gets_a_table_and_no_warning(demo):
    cfg = load_config('mask-rcnn_r18_fpn_finetune')
    found = ceiling(part_of(cfg, demo), cfg)
    rows = {row.name: row for row in found.rows}
    assert list(rows) == ['Fiber', 'Fragment', 'Film']
    assert found.own == (28, 28)
    assert found.grids == GRIDS
    for row in rows.values():
        means = [row.mean(grid) for grid in GRIDS]
        assert means == sorted(means)
        assert row.sampled == row.instances > 0
        assert 0 <= row.best_ap((28, 28)) <= 1
    # thin objects are what a grid costs most
    assert rows['Fiber'].mean((28, 28)) < 0.9 < rows['Film'].mean((28, 28))
    assert not is_problem(found.findings)
    (finding,) = found.findings
    assert finding.code == 'mask-grid-coarse'
    assert finding.severity == 'information'
    assert f'{rows["Fiber"].mean((28, 28)):.3f} on average' in finding.text
    assert 'on 56x56 it is' in finding.text
    assert finding.remedy.startswith(
        'model.roi_head.mask_roi_extractor.roi_layer.output_size=28 model.train_cfg.rcnn.mask_size=56\n'
        'as in the recipe mask-rcnn_r50_fpn_finetune_mask56\n'
    )
    assert [column.header for column in found.table().columns][4] == '28x28*'
    record = found.to_record()
    assert record['classes'][0]['grids'][1] == {
        'grid': [28, 28],
        'mean_iou': round(rows['Fiber'].mean((28, 28)), 4),
        'best_mask_ap': round(rows['Fiber'].best_ap((28, 28)), 4),
    }
    json.dumps(record)


def test_a_grid_too_coarse_for_fibers_is_a_warning(demo):
    cfg = load_config('mask-rcnn_r50_fpn_finetune_mask14', ['default_scope=mmdet'])
    found = ceiling(part_of(cfg, demo), cfg)
    assert [(finding.code, finding.severity) for finding in found.findings] == [('mask-grid-coarse', 'warning')]
    assert "class 'Fiber'" in found.findings[0].text
    assert 'mask AP can be 0.' in found.findings[0].text


def test_the_best_ap_is_that_of_a_perfect_detector(demo):
    """COCOeval gives this AP to predictions that are the pasted targets, one an object."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    cfg = load_config('mask-rcnn_r18_fpn_finetune')
    fibers = [a for a in demo.annotations if a['category_id'] == 1]
    found = ceiling(part_of(cfg, replace(demo, annotations=fibers)), cfg)
    ious = found.rows[0].ious[28, 28]
    # squares of which the share `iou` is predicted, each in an image of its own
    truth, predicted = COCO(), []
    images = [{'id': i, 'width': 300, 'height': 100} for i in range(len(ious))]
    annotations = []
    for i, iou in enumerate(ious):
        whole, part = np.zeros((100, 300), np.uint8, order='F'), np.zeros((100, 300), np.uint8, order='F')
        whole.T.reshape(-1)[:10_000] = 1
        part.T.reshape(-1)[: round(10_000 * iou)] = 1
        annotations.append({'id': i + 1, 'image_id': i, 'category_id': 1, 'iscrowd': 0, 'area': 10_000})
        annotations[-1] |= {'segmentation': coco_mask.encode(whole), 'bbox': [0, 0, 100, 100]}
        predicted.append({'image_id': i, 'category_id': 1, 'segmentation': coco_mask.encode(part), 'score': float(iou)})
    truth.dataset = {'images': images, 'annotations': annotations, 'categories': [{'id': 1, 'name': 'Fiber'}]}
    truth.createIndex()
    evaluated = COCOeval(truth, truth.loadRes(predicted), 'segm')
    evaluated.evaluate()
    evaluated.accumulate()
    evaluated.summarize()
    # COCO reads precision at 101 recalls, so a share is rounded to hundredths
    assert found.rows[0].best_ap((28, 28)) == pytest.approx(evaluated.stats[0], abs=0.011)


def test_the_sample_is_seeded_bounded_and_said(demo, monkeypatch):
    cfg = load_config('mask-rcnn_r18_fpn_finetune')
    part = part_of(cfg, demo)
    monkeypatch.setattr('mmext.check.ceiling._ALTOGETHER', 9)
    monkeypatch.setattr('mmext.check.ceiling._LEAST', 3)
    calls = []
    first, again, other = (ceiling(part, cfg, seed, lambda *step: calls.append(step)) for seed in (0, 0, 1))
    assert [row.sampled for row in first.rows] == [3, 3, 3]
    assert calls[:9] == [(i, 9) for i in range(1, 10)]
    assert all((a.ious[28, 28] == b.ious[28, 28]).all() for a, b in zip(first.rows, again.rows, strict=True))
    assert any((a.ious[28, 28] != b.ious[28, 28]).any() for a, b in zip(first.rows, other.rows, strict=True))
    assert f'from 9 of {len(demo.annotations)} instances, drawn with seed 0' in first.lines[0]
    monkeypatch.setattr('mmext.check.ceiling._ALTOGETHER', 900)
    monkeypatch.setattr('mmext.check.ceiling._PIXELS', 1)
    assert [row.sampled for row in ceiling(part, cfg).rows] == [5, 5, 5]


def test_a_box_that_cuts_the_mask_is_not_the_grids_fault(tmp_path):
    square = entry(1, [20, 20, 80, 20, 80, 80, 20, 80])
    square['bbox'] = [20, 20, 30, 60]
    coco = written(tmp_path, [{'id': 1, 'file_name': 'a.png', 'width': 100, 'height': 100}], [square])
    cfg = load_config('mask-rcnn_r18_fpn_finetune')
    (finding,) = ceiling(part_of(cfg, coco), cfg).findings
    assert (finding.code, finding.severity) == ('mask-ceiling-low', 'warning')
    assert 'no finer grid lifts it' in finding.text
    assert 'compare bbox with the masks' in finding.remedy


def test_what_is_not_trained_on_is_not_counted(tmp_path):
    fine = entry(1, [20, 20, 80, 20, 80, 80, 20, 80])
    crowd = {**as_rle(entry(2, [1, 1, 9, 1, 9, 9]), 100, 100), 'iscrowd': 1}
    bare = {**entry(3, [1, 1, 9, 1, 9, 9]), 'area': 0}
    foreign = entry(4, [1, 1, 9, 1, 9, 9], category=2)
    images = [{'id': 1, 'file_name': 'a.png', 'width': 100, 'height': 100}]
    coco = written(tmp_path, images, [fine, crowd, bare, foreign], names=('Fiber', 'dirt'))
    cfg = load_config('mask-rcnn_r18_fpn_finetune')
    found = ceiling(part_of(cfg, coco), cfg)
    assert [(row.name, row.instances, row.sampled) for row in found.rows] == [
        ('Fiber', 1, 1),
        ('Fragment', 0, 0),
        ('Film', 0, 0),
    ]
    assert found.findings == []
    assert found.lines == []
    assert found.to_record()['classes'][1]['grids'] == []
    assert '-' in list(found.table().columns[3].cells)


def test_families_without_a_grid_say_so(demo):
    cfg = load_config('solov2_r18_fpn_finetune')
    found = ceiling(part_of(cfg, demo), cfg)
    assert found.table() is None
    assert found.own is None
    assert not found.findings
    assert found.lines == ['Resolution ceiling: not for SOLOv2: it has no masks, or none in a grid of fixed size.']
    cfg = load_config('point-rend_r18_fpn_finetune')
    grid, lines = own_grid(cfg)
    assert grid == (224, 224)
    assert 'refines its 7x7 mask point by point to 224x224' in lines[0]


@pytest.mark.parametrize(
    ('recipe', 'words'),
    [
        ('cascade-mask-rcnn_r18_fpn_finetune', 'model.train_cfg.rcnn.0.mask_size=56 model.train_cfg.rcnn.1.mask_size=56'),
        ('ms-rcnn_r18_fpn_finetune', 'model.roi_head.mask_iou_head.roi_feat_size=28 model.train_cfg.rcnn.mask_size=56'),
    ],
)
def test_the_remedy_builds(recipe, words):
    """The lines change all that belongs together: the head still predicts and learns on the new grid."""
    cfg = load_config(recipe)
    remedy = grid_remedy(cfg, (28, 28), (56, 56))
    assert words in remedy
    changed = load_config(recipe, remedy.partition('\n')[0].split())
    assert own_grid(changed)[0] == (56, 56)
    assert changed.model.roi_head.mask_roi_extractor.roi_layer.output_size == 28
