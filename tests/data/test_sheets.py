import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from mmext.data import sheets
from mmext.data.coco_file import read_coco
from mmext.data.demo import write_part
from mmext.data.mask_shapes import read_shapes
from mmext.data.sheets import suspicion, write_sheets
from mmext.errors import InputError


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp('demo')
    for _ in write_part(folder, 14, (0, 0)):
        pass
    return folder


def made(tmp_path, annotations, grey=200, size=(120, 90), categories=('thing',)):
    tmp_path.mkdir(exist_ok=True)
    Image.new('RGB', size, (grey, grey, grey)).save(tmp_path / 'a.png')
    document = {
        'images': [{'id': 1, 'file_name': 'a.png', 'width': size[0], 'height': size[1]}],
        'annotations': annotations,
        'categories': [{'id': i + 1, 'name': name} for i, name in enumerate(categories)],
    }
    (tmp_path / 'annotations.json').write_text(json.dumps(document))
    return read_coco(tmp_path / 'annotations.json')


def entry(number, polygon, **changes):
    points = np.array(polygon, float).reshape(-1, 2)
    (left, top), (right, bottom) = points.min(0), points.max(0)
    x, y = points.T
    area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    found = {'id': number, 'image_id': 1, 'category_id': 1, 'segmentation': [list(polygon)], 'iscrowd': 0}
    return {**found, 'bbox': [left, top, right - left, bottom - top], 'area': area, **changes}


SQUARE = [40, 30, 70, 30, 70, 60, 40, 60]


def test_three_sheets_a_class_and_a_histogram(demo, tmp_path):
    coco = read_coco(demo / 'annotations.json')
    calls = []
    paths = write_sheets(coco, demo, tmp_path / 'new' / 'show', lambda *step: calls.append(step))
    assert [path.name for path in paths] == [
        *(f'0{n}_{name}_{kind}.png' for n, name in ((1, 'Fiber'), (2, 'Fragment'), (3, 'Film'))
          for kind in ('suspicious', 'smallest', 'largest')),
        'sizes.png',
    ]  # fmt: skip
    assert calls == [(1, 3), (2, 3), (3, 3)]
    for path in paths:
        assert path.parent == tmp_path / 'new' / 'show'
        assert min(Image.open(path).size) > 200
    again = write_sheets(coco, demo, tmp_path / 'again')
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]


def test_the_order_of_the_sheets(demo, tmp_path, monkeypatch):
    shown = {}

    def keep(title, source, tiles, squares):
        shown[title] = [tile.annotation for tile in tiles]
        return Image.new('RGB', (1, 1))

    monkeypatch.setattr(sheets, '_sheet', keep)
    coco = read_coco(demo / 'annotations.json')
    write_sheets(coco, demo, tmp_path)
    fragments = [annotation for annotation in coco.annotations if annotation['category_id'] == 2]
    number = min(24, len(fragments))
    smallest = shown[f'Fragment: smallest first, {number} of {len(fragments)} objects']
    largest = shown[f'Fragment: largest first, {number} of {len(fragments)} objects']
    # demo areas are counted in pixels, sheets go by the polygon's
    assert smallest[0]['area'] <= min(annotation['area'] for annotation in fragments) + 5
    assert largest[0]['area'] >= max(annotation['area'] for annotation in fragments) - 5
    assert len(smallest) == number
    assert {annotation['category_id'] for annotation in smallest} == {2}


@pytest.mark.parametrize(
    ('changes', 'score', 'words'),
    [
        ({}, 0, ''),
        ({'bbox': [40, 30, 30, 60]}, 0.5, 'box IoU 0.50'),
        ({'area': 225.0}, 0.75, 'area 225, mask 900'),
        # a bow tie: the two halves cancel out in the shoelace formula
        ({'segmentation': [[40, 30, 70, 60, 70, 30, 40, 60]], 'area': 450.0}, 1, 'crosses itself, 100%'),
    ],
)
def test_doubts(tmp_path, changes, score, words):
    coco = made(tmp_path, [entry(1, SQUARE, **changes)])
    scores, remarks = suspicion(coco, read_shapes(coco))
    assert scores == pytest.approx([score], abs=1e-6)
    assert remarks == [words]


def test_a_mask_that_fills_less_than_its_kind_is_suspicious(tmp_path):
    fine = [entry(i, [10 * i, 10, 10 * i + 9, 10, 10 * i + 9, 20, 10 * i, 20 - i / 9]) for i in range(1, 8)]
    corner = [80, 30, 110, 30, 110, 33, 83, 33, 83, 60, 80, 60]
    coco = made(tmp_path, [*fine, entry(9, corner)])
    scores, remarks = suspicion(coco, read_shapes(coco))
    assert scores.argmax() == 7
    assert scores[7] == 1
    assert remarks[7].startswith('fills 19% of its box, usual 9')
    assert scores[:7].max() < 0.5


def test_an_empty_file_has_no_sheets(tmp_path):
    assert write_sheets(made(tmp_path, []), tmp_path, tmp_path / 'show') == []


@pytest.mark.parametrize('form', ['polygon', 'rle', 'counts'])
@pytest.mark.parametrize('grey', [0, 255])
def test_the_outline_is_around_the_object_and_seen_on_dark_and_bright(tmp_path, form, grey):
    annotation = entry(1, SQUARE)
    if form != 'polygon':
        mask = np.zeros((90, 120), np.uint8, order='F')
        mask[30:60, 40:70] = 1
        if form == 'rle':
            annotation['segmentation'] = {'size': [90, 120], 'counts': coco_mask.encode(mask)['counts'].decode()}
        else:
            runs = np.diff(np.flatnonzero(np.diff(mask.ravel('F'), prepend=0)), prepend=0)
            annotation['segmentation'] = {'size': [90, 120], 'counts': [*runs.tolist(), mask.size - int(runs.sum())]}
    coco = made(tmp_path, [annotation], grey)
    (tile,) = sheets._tiles(coco, read_shapes(coco), {'smallest': np.array([0])}, [''])['smallest']
    square = sheets._squares([tile], tmp_path)[1]
    drawn = np.array(sheets._drawn(tile, square)).astype(int)
    where = [round((value - corner) * square.scale) for value, corner in ((40, square.left), (70, square.left))]
    middle = sheets._TILE // 2
    inside = drawn[middle, where[0] + 1 : where[1]]
    assert len(inside) > 100
    assert (inside == grey).all()  # nothing of the object is covered
    left = drawn[middle, where[0] - 5 : where[0] + 1]
    assert (np.abs(left - sheets._OUTLINE).sum(1) == 0).sum() == 2
    assert (left.sum(1) == 0).any()
    # told apart from what is around it
    assert abs(left.mean(1).max() - left.mean(1).min()) > 100


def test_names_of_all_kinds(tmp_path):
    names = ('Fäser $x^2$', '纤维', 'a/b\n..\\c', '\ud800')
    annotations = [entry(i + 1, SQUARE, category_id=i + 1) for i in range(len(names))]
    paths = write_sheets(made(tmp_path, annotations, categories=names), tmp_path, tmp_path / 'show')
    assert len(paths) == 3 * len(names) + 1
    assert {path.parent for path in paths} == {tmp_path / 'show'}
    assert all(path.is_file() for path in paths)


def test_a_long_name_gives_way_in_the_middle():
    font = sheets._font()
    shown = sheets._cut('film_of_the_second_of_may_frame_00000017.png', 150, font)
    assert shown.startswith('film')
    assert shown.endswith('17.png')
    assert '…' in shown
    assert font.getlength(shown) <= 150


@pytest.mark.parametrize('spoil', ['missing', 'truncated', 'empty', 'sixteen bits'])
def test_images_of_all_kinds(tmp_path, spoil):
    coco = made(tmp_path, [entry(1, SQUARE)])
    path = tmp_path / 'a.png'
    if spoil == 'missing':
        path.unlink()
    elif spoil == 'sixteen bits':
        Image.fromarray(np.arange(90 * 120, dtype=np.uint16).reshape(90, 120) // 3).save(path)
    else:
        path.write_bytes(path.read_bytes()[: 60 if spoil == 'truncated' else 0])
    picture = sheets.read_picture(tmp_path, 'a.png')
    if spoil == 'sixteen bits':
        assert picture.dtype == np.uint8
        assert picture.max() - picture.min() > 200
    else:
        assert picture is None
    assert len(write_sheets(coco, tmp_path, tmp_path / 'show')) == 4


@pytest.mark.parametrize(
    'polygon',
    [[-50, -50, -20, -50, -20, -20], [4000, 10, 4010, 10, 4010, 30], [-300, -300, 900, -300, 900, 900], [5, 5, 5, 5, 5, 5]],
)
def test_objects_outside_or_larger_than_the_image(tmp_path, polygon):
    coco = made(tmp_path, [entry(1, polygon)])
    assert len(write_sheets(coco, tmp_path, tmp_path / 'show')) == 4


@pytest.mark.parametrize('sides', [(-30, 30), (30, -30), (-30, -30), (-0.01, 5), (0, 0), (-1e9, -1e9)])
def test_boxes_of_negative_sides_are_drawn(tmp_path, sides):
    coco = made(tmp_path, [entry(1, SQUARE, bbox=[50, 40, *sides])])
    assert len(write_sheets(coco, tmp_path, tmp_path / 'show')) == 4


def test_a_negative_box_is_drawn_where_its_corners_are(tmp_path):
    drawn = []
    for bbox in ([40, 30, 30, 20], [70, 50, -30, -20]):
        coco = made(tmp_path, [entry(1, SQUARE, bbox=bbox)])
        (tile,) = sheets._tiles(coco, read_shapes(coco), {'smallest': np.array([0])}, [''])['smallest']
        drawn.append(np.array(sheets._drawn(tile, sheets._squares([tile], tmp_path)[1])))
    assert (drawn[0] == drawn[1]).all()


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(sheets.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(InputError, match=r"matplotlib, which is not installed: pip install 'mmext\[report\]'"):
        write_sheets(made(tmp_path, []), tmp_path, tmp_path / 'show')


def test_a_folder_that_cannot_be_written(tmp_path):
    coco = made(tmp_path, [entry(1, SQUARE)])
    (tmp_path / 'taken').write_text('')
    with pytest.raises(InputError, match=r'taken: cannot be written: .*Give another folder to --show'):
        write_sheets(coco, tmp_path, tmp_path / 'taken')
