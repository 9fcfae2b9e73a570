import csv
import io
import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mmext.analysis.label_map import instances_to_label_map
from mmext.data.coco_file import read_coco
from mmext.errors import InputError
from mmext.predict import export
from mmext.predict.instances import Instances

CLASSES = ('Fiber', 'Film', 'Brösel')


def made(masks, labels, scores, boxes=None):
    masks = np.asarray(masks, np.uint8)
    rles = [coco_mask.encode(np.asfortranarray(mask)) for mask in masks]
    if boxes is None:
        boxes = [[1.5, 2.25, 30.1, 40.7]] * len(labels)
    return Instances(
        tuple(masks.shape[1:]),
        np.array(labels, np.int64),
        np.array(scores, np.float32),
        np.array(boxes, np.float32).reshape(-1, 4),
        rles,
        CLASSES,
    )


@st.composite
def instances(draw):
    """Rectangles and specks, some empty, some of equal scores, best first."""
    count = draw(st.integers(0, 5))
    height, width = draw(st.integers(1, 30)), draw(st.integers(1, 30))
    masks = np.zeros((count, height, width), np.uint8)
    for mask in masks:
        y, x = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        mask[y : y + draw(st.integers(0, 30)), x : x + draw(st.integers(0, 30))] = 1
        mask[draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))] = 1 - draw(st.booleans())
    scores = sorted((draw(st.sampled_from([0.1, 0.5, 0.75, 0.9])) for _ in range(count)), reverse=True)
    return made(masks, [draw(st.integers(0, 2)) for _ in range(count)], scores)


@settings(max_examples=50, deadline=None)
@given(instances())
def test_npz_has_the_arrays_and_the_same_bytes_each_time(found):
    data = export.npz_bytes(found)
    assert data == export.npz_bytes(found)
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    assert {name: (array.dtype, array.shape) for name, array in arrays.items() if name != 'class_names'} == {
        'masks': (bool, (len(found), *found.size)),
        'labels': (np.int64, (len(found),)),
        'scores': (np.float32, (len(found),)),
        'boxes': (np.float32, (len(found), 4)),
    }
    assert np.array_equal(arrays['masks'], found.masks())
    for name in ('labels', 'scores', 'boxes'):
        assert np.array_equal(arrays[name], getattr(found, name))
    assert tuple(arrays['class_names']) == CLASSES


@settings(max_examples=60, deadline=None)
@given(instances())
def test_the_label_map_shows_the_classes_of_the_map_of_classes(found):
    numbers = export.instance_map(found)
    assert (numbers.dtype, numbers.shape) == (np.uint16, found.size)
    classes = np.concatenate([[0], found.labels + 1])[numbers]
    assert np.array_equal(classes, instances_to_label_map(found.masks(), found.labels, found.scores))
    assert np.array_equal(cv2.imdecode(np.frombuffer(export.png_bytes(numbers), np.uint8), cv2.IMREAD_UNCHANGED), numbers)
    rows = list(csv.DictReader(io.StringIO(export.label_table(found, numbers))))
    assert [row['class'] for row in rows] == [CLASSES[label] for label in found.labels]
    assert [int(row['shown_px']) for row in rows] == [int((numbers == i + 1).sum()) for i in range(len(found))]
    assert [int(row['area_px']) for row in rows] == found.masks().sum((1, 2)).tolist()


def test_the_higher_score_wins_whatever_the_order():
    masks = np.zeros((3, 4, 6), np.uint8)
    masks[0, :, :4], masks[1, :, 2:], masks[2, 1:3] = 1, 1, 1
    numbers = export.instance_map(made(masks, [0, 1, 2], [0.3, 0.9, 0.6]))
    assert numbers.tolist() == [[1, 1, 2, 2, 2, 2], [3, 3, 2, 2, 2, 2], [3, 3, 2, 2, 2, 2], [1, 1, 2, 2, 2, 2]]


def test_more_instances_than_16_bits_can_number():
    rle = coco_mask.encode(np.asfortranarray(np.ones((2, 2), np.uint8)))
    count = 65_536
    many = Instances((2, 2), np.zeros(count, int), np.ones(count), np.zeros((count, 4)), [rle] * count, CLASSES)
    with pytest.raises(InputError, match=r'65536 instances; 16 bits number 65535.*--score-thr'):
        export.instance_map(many)


@settings(max_examples=40, deadline=None)
@given(st.lists(instances(), min_size=1, max_size=3))
def test_coco_annotations_can_be_read_and_hold_the_masks(tmp_path_factory, found):
    images = [(10 + i, f'sub/{i}.png', one) for i, one in enumerate(found)]
    document = export.coco_annotations(images, CLASSES, [3, 1, 2])
    path = tmp_path_factory.mktemp('coco') / 'annotations.json'
    path.write_text(json.dumps(document))
    coco = read_coco(path)
    assert coco.classes == CLASSES
    assert [image['file_name'] for image in coco.images] == [name for _, name, _ in images]
    shown = [(number, one, i) for number, _, one in images for i in range(len(one)) if one.masks()[i].any()]
    assert len(coco.annotations) == len(shown)
    for annotation, (number, one, i) in zip(coco.annotations, shown, strict=True):
        assert (annotation['image_id'], annotation['iscrowd']) == (number, 0)
        assert annotation['category_id'] == [3, 1, 2][one.labels[i]]
        mask, segmentation = one.masks()[i], annotation['segmentation']
        if isinstance(segmentation, list):
            segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, *one.size))
        drawn = coco_mask.decode(segmentation).astype(bool)
        assert (drawn & mask).sum() >= 0.95 * (drawn | mask).sum()
        assert annotation['area'] == mask.sum()
        x, y, width, height = annotation['bbox']
        rows, columns = np.nonzero(mask)
        assert (x, y, x + width, y + height) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def disc(holes=False, size=80):
    y, x = np.mgrid[:size, :size]
    away = np.hypot(x - 37, y - 42)
    return ((away <= 20) & ~(holes & (away < 8))).astype(np.uint8)


def test_a_round_object_is_a_polygon_of_few_corners_and_a_ring_is_an_rle():
    rle = coco_mask.encode(np.asfortranarray(disc()))
    (outline,) = export.polygons(rle)
    assert 8 <= len(outline) // 2 < 50
    drawn = coco_mask.merge(coco_mask.frPyObjects([outline], 80, 80))
    assert coco_mask.iou([drawn], [rle], [0])[0, 0] > 0.97
    assert np.mean(outline[::2]) == pytest.approx(37.5, abs=1)  # a pixel's middle is half a pixel from its corner
    assert export.polygons(coco_mask.encode(np.asfortranarray(disc(holes=True)))) is None


def test_coco_results_are_what_loadres_reads():
    masks = np.stack([disc(), disc(holes=True)])
    found = made(masks, [1, 0], [0.9, 0.25])
    truth = COCO()
    truth.dataset = {
        'images': [{'id': 7, 'height': 80, 'width': 80}],
        'categories': [{'id': 4}, {'id': 9}],
        'annotations': [],
    }
    truth.createIndex()
    loaded = truth.loadRes(export.coco_results(found, 7, 'a.png', [4, 9, 11]))
    first, second = loaded.dataset['annotations']
    assert (first['image_id'], first['category_id'], second['category_id']) == (7, 9, 4)
    assert (first['score'], second['score']) == pytest.approx((0.9, 0.25))
    assert first['bbox'] == pytest.approx([1.5, 2.25, 28.6, 38.45], abs=1e-4)
    assert np.array_equal(loaded.annToMask(second), masks[1])
    json.dumps(loaded.dataset)


def test_csv_leaves_empty_what_is_not_there():
    rows = [{'a': 1 / 3, 'b': None}, {'a': 12_345_678.0, 'b': 'x, "y"'}, {'b': True}]
    assert export.csv_text(['a', 'b'], rows) == 'a,b\n0.33333333,\n12345678,"x, ""y"""\n,True\n'


@pytest.mark.parametrize('scale', [1.0, 0.5])
def test_the_overlay_colours_masks_by_class_and_leaves_the_rest(scale):
    masks = np.zeros((2, 120, 200), np.uint8)
    masks[0, 40:80, 20:60], masks[1, 40:80, 120:160] = 1, 1
    found = made(masks, [0, 1], [0.9, 0.8], [[20, 40, 60, 80], [120, 40, 160, 80]])
    height, width = round(120 * scale), round(200 * scale)
    picture = np.full((height, width, 3), 100, np.uint8)
    shown = export.overlay(picture, found, scale)
    assert shown.shape[0] > height
    assert shown.shape[1:] == (width, 3)
    inside = [shown[round(60 * scale), round(x * scale)].astype(int) for x in (40, 140)]
    assert inside[0][0] > inside[0][2]  # blue for the first class, in the order blue, green, red
    assert inside[1][2] > inside[1][0]  # vermilion for the second
    assert (shown[round(100 * scale) : height] == 100).all()
    assert (picture == 100).all()
    assert (export.overlay(picture, found.chosen(np.zeros(2, bool)), scale)[:height] == 100).all()


def test_a_hole_is_not_filled():
    found = made([disc(holes=True)], [0], [0.9], [[17, 22, 58, 63]])
    shown = export.overlay(np.full((80, 80, 3), 100, np.uint8), found)
    assert shown[42, 37].tolist() == [100, 100, 100]
    assert shown[42, 37 + 14].tolist() != [100, 100, 100]
