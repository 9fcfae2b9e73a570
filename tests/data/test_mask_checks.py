import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mmext.data.coco_file import CocoFile, read_coco
from mmext.data.demo import write_part
from mmext.data.mask_checks import check_masks
from mmext.data.mask_pairs import SAME_BOX, near_pairs

SIDE = 200


def wavy(x, y, radius=20.0, points=40):
    """A wavy disk, (P, 2)."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    reach = radius * (1 + 0.15 * np.cos(3 * angle))
    return np.stack([x + reach * np.cos(angle), y + reach * np.sin(angle)], 1)


def annotation(outline, **fields):
    low, high = outline.min(0), outline.max(0)
    polygon = outline.ravel().tolist()
    drawn = coco_mask.merge(coco_mask.frPyObjects([polygon], SIDE, SIDE))
    found = {'image_id': 1, 'category_id': 1, 'segmentation': [polygon], 'bbox': [*low.tolist(), *(high - low).tolist()]}
    return found | {'area': int(coco_mask.area(drawn)), 'iscrowd': 0} | fields


def coco_of(*annotations, size=(SIDE, SIDE), classes=('thing', 'other')):
    images = [{'id': i, 'file_name': f'{i}.png', 'width': size[0], 'height': size[1]} for i in (1, 2)]
    categories = [{'id': i + 1, 'name': name} for i, name in enumerate(classes)]
    numbered = [{'id': i + 1} | annotation for i, annotation in enumerate(annotations)]
    return CocoFile('a.json', images, numbered, categories)


def only(findings, code):
    """The finding of that code, which must be there once."""
    (found,) = [finding for finding in findings if finding.code == code]
    return found


def codes(*annotations, **kwargs):
    return [finding.code for finding in check_masks(coco_of(*annotations, **kwargs), 'train')]


def as_rle(entry):
    rle = coco_mask.merge(coco_mask.frPyObjects(entry['segmentation'], SIDE, SIDE))
    return entry | {'segmentation': {'size': [SIDE, SIDE], 'counts': rle['counts'].decode()}}


@pytest.mark.parametrize('form', [lambda entry: entry, as_rle], ids=['polygons', 'RLE'])
def test_made_data_are_clean(tmp_path, form):
    list(write_part(tmp_path, 25, (11, 0)))
    document = json.loads((tmp_path / 'annotations.json').read_text())

    def change(entry):
        rle = coco_mask.merge(coco_mask.frPyObjects(entry['segmentation'], 256, 256))
        return entry | {'segmentation': {'size': [256, 256], 'counts': rle['counts'].decode()}}

    if form is as_rle:
        document['annotations'] = list(map(change, document['annotations']))
    (tmp_path / 'annotations.json').write_text(json.dumps(document))
    findings = check_masks(read_coco(tmp_path / 'annotations.json'), 'train')
    assert {finding.code for finding in findings} <= {'polygon-touches-itself'}


@pytest.mark.parametrize(
    'fields',
    [
        {'bbox': [82, 78, 42, 45]},  # rounded out, with the last pixel
        {'area': 1256.6 * 1.05},
        {'area': 1150.0},  # the outline's through the centres of its pixels
    ],
)
def test_other_conventions_are_no_fault(fields):
    assert codes(annotation(wavy(100, 100), **fields)) == []


def test_thin_outlines_traced_from_pixels_have_the_area_of_either():
    # 1 px wide by the corners' reckoning, 2 px wide drawn: both areas are written by tools
    thin = np.array([[10, 10], [150, 10], [150, 11], [10, 11]], float)
    assert codes(annotation(thin, area=140), annotation(thin + 50, area=282)) == []


def test_a_box_cut_at_the_edge_is_the_masks():
    outline = wavy(199, 100, 10)
    assert 'mask-over-edge' in codes(annotation(outline))
    low = outline.min(0)
    cut = annotation(outline, bbox=[low[0], low[1], SIDE - low[0], 20])
    assert 'box-not-of-mask' not in codes(cut)


def test_broken_masks_are_severe_and_named():
    findings = check_masks(coco_of(annotation(wavy(60, 60)), annotation(wavy(120, 120), segmentation=[[1, 2, 3, 4]])), 'val')
    found = only(findings, 'polygon-too-few-points')
    assert found.severity == 'severe'
    assert found.where == 'val'
    assert found.text == '1 of 2 annotations have a polygon of fewer than 3 points, which has no area.'
    assert found.examples == ('annotation 2 of image 1 (1.png): a polygon of 2 points',)


def test_a_crowd_region_needs_no_mask():
    without = {key: value for key, value in annotation(wavy(60, 60)).items() if key != 'segmentation'}
    assert codes(without) == ['mask-missing']
    assert codes(without | {'iscrowd': 1}) == []


def test_crossing_and_touching_outlines():
    bow_tie = np.array([[20, 20], [60, 60], [60, 20], [20, 60]], float)
    spike = np.array([[20, 20], [60, 20], [60, 60], [80, 60], [60, 60], [20, 60]], float)
    findings = check_masks(coco_of(annotation(bow_tie + 100), annotation(spike)), 'train')
    crossing, touching = only(findings, 'polygon-crosses-itself'), only(findings, 'polygon-touches-itself')
    assert (crossing.severity, touching.severity) == ('warning', 'information')
    assert 'changes its area by 100%' in crossing.examples[0]
    assert 'annotation 2' in touching.examples[0]


def test_many_crossings_are_measured_up_to_a_bound(monkeypatch):
    monkeypatch.setattr('mmext.data.mask_shapes._MOST_CROSSINGS', 2)
    bow_tie = np.array([[20, 20], [60, 60], [60, 20], [20, 58]], float)
    found = check_masks(coco_of(*[annotation(bow_tie + 15 * i) for i in range(5)]), 'train')
    crossing = only(found, 'polygon-crosses-itself')
    assert crossing.count == 2
    assert '(at least: 3 outlines were not measured)' in crossing.text


def test_points_on_a_line_have_no_area():
    line = np.array([[20, 20], [60, 60], [40, 40]], float)
    found = only(check_masks(coco_of(annotation(line, area=10)), 'train'), 'mask-zero-area')
    assert 'less than 1 px²' in found.text


def test_outside_and_over_the_edge():
    findings = check_masks(
        coco_of(annotation(wavy(300, 50)), annotation(wavy(195, 50)), annotation(wavy(178, 150))), 'train'
    )
    assert only(findings, 'mask-outside-image').severity == 'severe'
    over = only(findings, 'mask-over-edge')
    assert over.examples[0].startswith('annotation 2 of image 1 (1.png): 18 px over; mask x 177.598 to 218')
    assert [finding.code for finding in findings] == ['mask-outside-image', 'mask-over-edge']


def test_exchanged_sides_of_an_image_are_suggested():
    findings = check_masks(coco_of(annotation(wavy(150, 50)), annotation(wavy(50, 50)), size=(100, 200)), 'train')
    assert 'if width and height were exchanged' in only(findings, 'mask-outside-image').remedy


def test_a_box_outside_is_dropped_by_mmdetection():
    findings = check_masks(coco_of(annotation(wavy(50, 50), bbox=[300, 10, 40, 40])), 'train')
    assert [finding.code for finding in findings] == ['box-outside-image']


def test_box_and_area_that_are_not_the_masks():
    moved = annotation(wavy(50, 50), bbox=[45, 30, 40, 40])
    heavy = annotation(wavy(120, 120), area=2500)
    findings = check_masks(coco_of(moved, heavy), 'train')
    assert [finding.code for finding in findings] == ['box-not-of-mask', 'area-not-of-mask']
    assert 'bbox [45, 30, 40, 40], mask [32.598, ' in findings[0].examples[0]
    assert 'area 2500, mask 1264.02 px²' in findings[1].examples[0]


def test_area_of_the_box_is_recognised():
    box_area = annotation(wavy(50, 50), area=float(np.ptp(wavy(50, 50), axis=0).prod()))
    assert 'area is that of the box' in only(check_masks(coco_of(box_area), 'train'), 'area-not-of-mask').remedy


def test_corners_in_the_place_of_a_box_are_not_taken_for_shrunken_masks():
    def with_corners(x, y):
        outline = wavy(x, y)
        return annotation(outline, bbox=[*outline.min(0).tolist(), *outline.max(0).tolist()])

    (found,) = check_masks(coco_of(*[with_corners(40 + 10 * i, 60) for i in range(12)]), 'train')
    assert (found.code, found.severity, found.count) == ('box-of-corners', 'severe', 12)
    assert 'Write x2 - x1' in found.remedy


def shrunk(x, y, share):
    """The mask of a smaller disk in the box and with the area of the whole."""
    whole = annotation(wavy(x, y))
    return whole | {'segmentation': [((wavy(x, y) - (x, y)) * share + (x, y)).ravel().tolist()]}


def test_one_shrunken_mask_is_a_warning():
    findings = check_masks(coco_of(annotation(wavy(50, 50)), shrunk(130, 130, 0.5)), 'train')
    found = only(findings, 'mask-smaller-than-box')
    assert found.severity == 'warning'
    assert found.examples[0].startswith('annotation 2 of image 1 (1.png): 0.50 of its side; bbox [')


def test_a_file_of_small_masks_is_severe():
    findings = check_masks(coco_of(*[shrunk(30 + 14 * i, 100, 0.85) for i in range(10)]), 'train')
    found = only(findings, 'mask-smaller-than-box')
    assert found.severity == 'severe'
    assert found.count == 10
    assert 'the median mask of the file has 0.85 of its' in found.text
    assert 'box-not-of-mask' not in [finding.code for finding in findings]


def test_small_objects_with_whole_pixel_boxes_are_no_shrunken_masks():
    tiny = [annotation(wavy(20 + 16 * i, 50, 4)) for i in range(10)]
    for entry in tiny:
        x, y, width, height = entry['bbox']
        entry['bbox'] = [np.floor(x), np.floor(y), np.ceil(width) + 1, np.ceil(height) + 1]
    assert codes(*tiny) == []


def rectangle(x, y):
    return annotation(np.array([[x, y], [x + 12, y], [x + 12, y + 20], [x, y + 20]], float), category_id=2)


def test_boxes_given_as_masks():
    boxes = [rectangle(10 + 15 * i, 20) for i in range(10)]
    found = only(check_masks(coco_of(*boxes, annotation(wavy(100, 150))), 'train'), 'masks-are-boxes')
    assert 'nearly all of these classes: other (10 of 10)' in found.text
    assert found.count == 10
    assert 'masks-are-boxes' not in codes(*boxes[:9])  # too few to tell


def test_coordinates_as_shares_of_the_image():
    found = check_masks(coco_of(annotation(wavy(0.5, 0.5, 0.2), area=0.1)), 'train')
    assert [finding.code for finding in found] == ['coordinates-are-shares']
    assert 'Multiply x by the width' in found[0].remedy


@pytest.mark.parametrize('form', [lambda entry: entry, as_rle], ids=['polygons', 'RLE'])
def test_one_object_twice(form):
    once = form(annotation(wavy(50, 50)))
    again = form(annotation(wavy(50.4, 50)))
    elsewhere = form(annotation(wavy(50, 50), image_id=2))
    beside = form(annotation(wavy(58, 50)))
    findings = check_masks(coco_of(once, beside, elsewhere, again), 'train')
    (found,) = findings
    assert found.code == 'instance-twice'
    assert found.count == 1
    assert found.examples[0].startswith('annotation 1 of image 1 (1.png) and annotation 4: IoU 0.9')
    (other,) = check_masks(coco_of(once, again | {'category_id': 2}), 'train')
    assert other.code == 'instance-of-two-classes'
    assert other.examples[0].endswith('thing and other')


def test_crossed_bars_have_one_box_and_are_two_objects():
    up = np.array([[20, 20], [24, 20], [100, 96], [100, 100], [96, 100], [20, 24]], float)
    down = up * (1, -1) + (0, 120)
    assert codes(annotation(up), annotation(down)) == []


def test_near_pairs_are_those_of_all_pairs():
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 20, (300, 2))
    box = np.hstack([low, low + rng.uniform(20, 40, (300, 2))])
    groups = rng.integers(0, 5, 300)

    def iou(a, b):
        common = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
        return common / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - common)

    expected = {(i, j) for i in range(300) for j in range(i) if groups[i] == groups[j] and iou(box[i], box[j]) > SAME_BOX}
    found = [(max(pair), min(pair)) for one, other in near_pairs(groups, box) for pair in zip(one, other, strict=True)]
    assert len(expected) > 20
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_thousands_of_the_same_object_are_compared_up_to_a_bound(monkeypatch):
    monkeypatch.setattr('mmext.data.mask_pairs._MOST_MASK_PAIRS', 50)
    found = only(check_masks(coco_of(*[annotation(wavy(50, 50))] * 20), 'train'), 'instance-twice')
    assert found.text.startswith('at least 50 pairs')


def test_nothing_to_check():
    assert check_masks(coco_of(), 'train') == []
