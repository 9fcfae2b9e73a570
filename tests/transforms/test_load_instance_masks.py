import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.structures.mask import PolygonMasks
from mmengine.registry import DATASETS, init_default_scope
from pycocotools import mask as coco_mask

from mmext.errors import InputError
from mmext.structures import WindowMasks
from mmext.transforms import LoadInstanceMasks

HEIGHT, WIDTH = 40, 60
SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]


def rle_of(polygon):
    rle = coco_mask.frPyObjects([polygon], HEIGHT, WIDTH)[0]
    return {'size': rle['size'], 'counts': rle['counts'].decode()}


def counts_of(polygon):
    """Uncompressed RLE, column by column, as CVAT writes it."""
    flat = coco_mask.decode(coco_mask.frPyObjects([polygon], HEIGHT, WIDTH)[0]).ravel(order='F')
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]])))
    runs = np.diff(np.concatenate([[0], edges, [len(flat)]]))
    return {'size': [HEIGHT, WIDTH], 'counts': runs.tolist()}


def annotation(segmentation, **changes):
    found = {'image_id': 1, 'category_id': 1, 'bbox': [10, 10, 20, 20], 'area': 400, 'iscrowd': 0}
    found |= {'segmentation': segmentation} if segmentation is not None else {}
    return found | changes


def load(tmp_path, annotations, transform='mmext.LoadInstanceMasks', **arguments):
    """The results of loading the one image of a COCO file with these annotations."""
    init_default_scope('mmdet')
    for number, entry in enumerate(annotations, 11):
        entry.setdefault('id', number)
    images = [{'id': 1, 'file_name': 'a.png', 'height': HEIGHT, 'width': WIDTH}]
    document = {'images': images, 'annotations': annotations, 'categories': [{'id': 1, 'name': 'thing'}]}
    (tmp_path / 'ann.json').write_text(json.dumps(document))
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    dataset = DATASETS.build(
        {
            'type': 'mmext.CocoInstanceDataset',
            'data_root': str(tmp_path),
            'ann_file': 'ann.json',
            'data_prefix': {'img': ''},
            'metainfo': {'classes': ('thing',)},
            'pipeline': [{'type': 'LoadImageFromFile'}, {'type': transform, **arguments}],
        }
    )
    return dataset[0]


STOCK = {'transform': 'LoadAnnotations', 'with_bbox': True, 'with_mask': True}


def test_polygons_stay_polygons_as_stock_keeps_them(tmp_path):
    ours = load(tmp_path, [annotation([SQUARE]), annotation([SQUARE, [0, 0, 5, 0, 5, 5]])])
    stock = load(tmp_path, [annotation([SQUARE]), annotation([SQUARE, [0, 0, 5, 0, 5, 5]])], **STOCK, poly2mask=False)
    assert isinstance(ours['gt_masks'], PolygonMasks)
    for mine, theirs in zip(ours['gt_masks'].masks, stock['gt_masks'].masks, strict=True):
        assert [part.tolist() for part in mine] == [part.tolist() for part in theirs]
    assert ours['gt_bboxes'].tensor.equal(stock['gt_bboxes'].tensor)


def test_polygons_are_drawn_where_soft_targets_need_pixels(tmp_path):
    objects = [annotation([SQUARE]), annotation([SQUARE, [0, 0, 5, 0, 5, 5]])]
    ours = load(tmp_path, [dict(entry) for entry in objects], polygons=False)
    stock = load(tmp_path, [dict(entry) for entry in objects], **STOCK)
    assert isinstance(ours['gt_masks'], WindowMasks)
    assert np.array_equal(ours['gt_masks'].masks, stock['gt_masks'].masks)


def test_no_instance_is_lost_where_four_kinds_of_masks_meet(tmp_path):
    mixed = [
        annotation([SQUARE]),
        annotation(rle_of(SQUARE)),
        annotation(counts_of(SQUARE)),
        annotation(rle_of(SQUARE), iscrowd=1),
    ]
    ours = load(tmp_path, [dict(entry) for entry in mixed])
    assert isinstance(ours['gt_masks'], WindowMasks)
    assert ours['gt_ignore_flags'].tolist() == [False, False, False, True]
    assert [int(mask.sum()) for mask in ours['gt_masks'].masks] == [400] * 4
    bitmaps = load(tmp_path, [dict(entry) for entry in mixed], **STOCK)
    assert np.array_equal(ours['gt_masks'].masks, bitmaps['gt_masks'].masks)
    assert ours['gt_bboxes'].tensor.equal(bitmaps['gt_bboxes'].tensor)
    # the trap that this transform is for: stock keeps one of the three objects and says nothing
    stock = load(tmp_path, [dict(entry) for entry in mixed], **STOCK, poly2mask=False)
    assert stock['gt_ignore_flags'].tolist() == [False, True, True, True]


@given(st.lists(st.lists(st.lists(st.integers(-40, 260), min_size=6, max_size=14), min_size=1, max_size=3), min_size=1))
@settings(deadline=None, max_examples=50)
def test_polygons_beside_an_rle_are_drawn_as_stock_draws_them(objects):
    """Polygons of any shape, in quarters of a pixel, some of two points or of an odd number, which are passed over."""
    instances = [{'bbox': [0, 0, 9, 9], 'bbox_label': 0, 'ignore_flag': 0, 'mask': rle_of(SQUARE)}]
    for parts in objects:
        mask = [SQUARE[:4], *([number / 4 for number in part] for part in parts)]
        instances.append({**instances[0], 'mask': mask if any(len(part) % 2 == 0 for part in parts) else [SQUARE]})
    results = [{'instances': [dict(one) for one in instances], 'ori_shape': (HEIGHT, WIDTH)} for _ in range(2)]
    stock = LoadAnnotations(with_bbox=True, with_mask=True)(results[0])
    ours = LoadInstanceMasks()(results[1])
    assert not ours['gt_ignore_flags'].any()
    assert np.array_equal(ours['gt_masks'].to_ndarray(), stock['gt_masks'].masks)


def test_image_without_objects(tmp_path):
    found = load(tmp_path, [])
    assert len(found['gt_masks']) == 0
    assert found['gt_bboxes'].tensor.shape == (0, 4)


def test_image_to_predict_has_no_instances(tmp_path):
    found = LoadInstanceMasks()({'ori_shape': (HEIGHT, WIDTH), 'img_id': 0})
    assert len(found['gt_masks']) == 0


def test_crowd_without_a_mask_is_ignored_and_no_error(tmp_path):
    found = load(tmp_path, [annotation([SQUARE]), annotation(None, iscrowd=1)])
    assert found['gt_ignore_flags'].tolist() == [False, True]


@pytest.mark.parametrize('segmentation', [None, [], {}, [[1, 2, 3, 4]], [[1, 2, 3, 4, 5, 6, 7]]])
def test_missing_segmentation_names_image_and_annotation(tmp_path, segmentation):
    with pytest.raises(InputError, match=r'image 1 \(.*a.png\): annotation 12 has no segmentation.*polygons or RLE'):
        load(tmp_path, [annotation([SQUARE]), annotation(segmentation)])


def test_stocks_data_set_has_no_ids_so_the_box_is_named(tmp_path):
    results = {'instances': [{'bbox': [1, 2, 3, 4], 'bbox_label': 0, 'ignore_flag': 0}], 'ori_shape': (9, 9), 'img_id': 7}
    with pytest.raises(InputError, match=r'image 7 .*object 1 with box \[1, 2, 3, 4\] has no segmentation'):
        LoadInstanceMasks()(results)


def test_rle_of_another_size_is_an_error(tmp_path):
    other = {'size': [WIDTH, HEIGHT], 'counts': rle_of(SQUARE)['counts']}
    with pytest.raises(InputError, match=r'RLE mask of size \[60, 40\] .* the image file is \[40, 60\]'):
        load(tmp_path, [annotation(other)])


def test_an_rle_that_does_not_fit_is_an_error(tmp_path):
    longer = {'size': [HEIGHT, WIDTH], 'counts': [5, 10, HEIGHT * WIDTH]}
    with pytest.raises(
        InputError, match=r'image 1 \(.*a.png\): annotation 12 has a broken RLE: its runs do not fit into 40x60'
    ):
        load(tmp_path, [annotation([SQUARE]), annotation(longer)])


def test_poly2mask_is_refused():
    with pytest.raises(InputError, match='there is no poly2mask'):
        LoadInstanceMasks(poly2mask=False)


@pytest.mark.parametrize('kind', ['polygon', 'rle'])
def test_masks_flip_and_resize_with_the_image(tmp_path, kind):
    """The mask moves with its box, whatever form it has (G5)."""
    from mmengine.registry import TRANSFORMS

    segmentation = [[10, 10, 30, 10, 30, 20, 10, 20]] if kind == 'polygon' else rle_of([10, 10, 30, 10, 30, 20, 10, 20])
    results = load(tmp_path, [annotation(segmentation, bbox=[10, 10, 20, 10])])
    for cfg in ({'type': 'mmdet.Resize', 'scale': (120, 80)}, {'type': 'mmdet.RandomFlip', 'prob': 1.0}):
        results = TRANSFORMS.build(cfg)(results)
    mask = results['gt_masks'].to_ndarray()[0]
    rows, columns = np.nonzero(mask)
    box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert box == pytest.approx(results['gt_bboxes'].tensor[0].tolist(), abs=1)
    assert results['gt_bboxes'].tensor[0].tolist() == [60, 20, 100, 40]
