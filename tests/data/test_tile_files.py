import json

import cv2
import numpy as np
import pytest
import tifffile
from pycocotools import mask as coco_mask

from mmext.analysis.mask_window import to_rle
from mmext.data.coco_file import CocoFile, read_coco
from mmext.data.image_pixels import whole_pixels
from mmext.data.split import MARK, Part, encoded
from mmext.data.tile_files import ANNOTATIONS, is_large, tiled_part, write_tiles
from mmext.errors import InputError

HEIGHT, WIDTH, SIDE = 250, 330, 100


def star(x, y, radius):
    angle = np.arange(9) * 2 * np.pi / 9
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], 1).round(2).ravel().tolist()


def annotated(segmentation, number, **changes):
    rle = to_rle(segmentation, HEIGHT, WIDTH)
    entry = {
        'id': number,
        'image_id': 1,
        'category_id': 1,
        'segmentation': segmentation,
        'bbox': coco_mask.toBbox(rle).tolist(),
        'area': int(coco_mask.area(rle)),
        'iscrowd': 0,
    }
    return entry | changes


@pytest.fixture
def part(tmp_path):
    """An image with objects inside of a tile, over edges, in two parts, as RLE."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[60:200, 100:180] = 1
    rle = coco_mask.encode(np.asfortranarray(mask))
    line = [5.0, 20.0, 320.0, 20.0, 320.0, 24.0, 5.0, 24.0]
    shapes = [
        [star(40, 40, 20)],
        [star(110, 125, 30)],
        [star(30, 130, 12), star(30, 230, 12)],
        {'size': rle['size'], 'counts': rle['counts'].decode()},
        [star(290, 60, 20)],
        [line],
    ]
    annotations = [annotated(shape, number) for number, shape in enumerate(shapes, 1)]
    annotations.append(annotated([star(200, 220, 20)], 7, iscrowd=1, attributes={'seen': True}))
    image = {'id': 1, 'file_name': 'a.tif', 'width': WIDTH, 'height': HEIGHT}
    coco = CocoFile(tmp_path / 'ann.json', [image], annotations, [{'id': 1, 'name': 'thing'}])
    return Part('val', coco.path, coco, tmp_path)


def iou(one, other):
    return (one & other).sum() / max((one | other).sum(), 1)


def test_every_pixel_is_in_one_tile_and_every_object_in_those_that_have_it(part, tmp_path):
    tiled, files = tiled_part(part, SIDE, tmp_path / 'tiles')
    covered = np.zeros((HEIGHT, WIDTH), int)
    shapes = {one['id']: coco_mask.decode(to_rle(one['segmentation'], HEIGHT, WIDTH)) for one in part.coco.annotations}
    drawn = {identity: np.zeros_like(mask) for identity, mask in shapes.items()}
    for file, image in zip(files, tiled.coco.images, strict=True):
        x1, y1, x2, y2 = file.window
        assert (image['width'], image['height']) == (x2 - x1, y2 - y1)
        assert max(image['width'], image['height']) <= SIDE
        covered[y1:y2, x1:x2] += 1
    assert (covered == 1).all()
    for one in tiled.coco.annotations:
        x1, y1, x2, y2 = files[one['image_id'] - 1].window
        rle = to_rle(one['segmentation'], y2 - y1, x2 - x1)
        mask = coco_mask.decode(rle)
        assert one['area'] == mask.sum() > 0
        assert one['bbox'] == coco_mask.toBbox(rle).tolist()
        fitting = [identity for identity, whole in shapes.items() if iou(whole[y1:y2, x1:x2], mask) > 0.98]
        assert len(fitting) == 1
        drawn[fitting[0]][y1:y2, x1:x2] |= mask
    for identity, whole in shapes.items():
        assert iou(drawn[identity], whole) > 0.995  # a polygon that moved is drawn anew


def test_polygons_stay_where_nothing_is_cut_and_rests_are_crowds(part, tmp_path):
    tiled, files = tiled_part(part, SIDE, tmp_path / 'tiles')
    assert [star(40, 40, 20)] in [one['segmentation'] for one in tiled.coco.annotations]
    rests = [one for one in tiled.coco.annotations if one['iscrowd'] and 'attributes' not in one]
    assert [(one['bbox'][2], isinstance(one['segmentation'], dict)) for one in rests] == [(15, True)]
    line = [one for one in tiled.coco.annotations if one['bbox'][3] == 4]
    assert len(line) == 4  # each has a quarter of it
    assert not any(one['iscrowd'] for one in line)
    (crowd,) = [one for one in tiled.coco.annotations if 'attributes' in one][:1]
    assert crowd['iscrowd'] == 1
    assert '1 images are cut into 12 tiles of at most 100 px' in tiled.lines[0]
    assert len(files) == 12


def test_polygons_move_with_their_tile(part, tmp_path):
    part.coco.annotations[:] = [annotated([star(290, 200, 20)], 1)]
    tiled, files = tiled_part(part, SIDE, tmp_path / 'tiles')
    (one,) = tiled.coco.annotations
    x1, y1, *_ = files[one['image_id'] - 1].window
    assert one['segmentation'] == [pytest.approx(star(290 - x1, 200 - y1, 20), abs=0.011)]


def test_a_part_is_a_coco_file_that_says_whose_it_is(part, tmp_path):
    tiled, _ = tiled_part(part, SIDE, tmp_path / 'tiles')
    assert tiled.coco.path == tmp_path / 'tiles' / ANNOTATIONS
    assert next(iter(tiled.document)) == MARK
    tiled.coco.path.parent.mkdir()
    tiled.coco.path.write_bytes(encoded(tiled.document))
    assert read_coco(tiled.coco.path).annotations == json.loads(encoded(tiled.document))['annotations']
    assert is_large(part.coco, SIDE)
    assert not is_large(tiled.coco, SIDE)


def test_an_rle_of_another_size_is_an_error(part, tmp_path):
    part.coco.annotations[3]['segmentation']['size'] = [10, 10]
    with pytest.raises(InputError, match=r'annotation 4 has an RLE mask of size \[10, 10\] .*Export'):
        tiled_part(part, SIDE, tmp_path / 'tiles')


RANDOM = np.random.default_rng(0)
DEEP = RANDOM.integers(0, 4096, (HEIGHT, WIDTH, 3)).astype(np.uint16)
EIGHT = (DEEP >> 4).astype(np.uint8)
FILES = {
    'deep grey': lambda path: tifffile.imwrite(path, DEEP[..., 0], tile=(64, 64)),
    'deep colours': lambda path: tifffile.imwrite(path, DEEP, photometric='rgb'),
    'five channels': lambda path: tifffile.imwrite(
        path, np.dstack([DEEP, DEEP[..., :2]]), photometric='minisblack', planarconfig='contig'
    ),
    'five pages': lambda path: tifffile.imwrite(
        path, np.moveaxis(np.dstack([DEEP, DEEP[..., :2]]), 2, 0), imagej=True, metadata={'axes': 'CYX'}
    ),
    'alpha': lambda path: tifffile.imwrite(
        path, np.dstack([EIGHT, EIGHT[..., 0] | 1]), photometric='rgb', extrasamples=['unassalpha']
    ),
    'turned': lambda path: tifffile.imwrite(path, DEEP[::-1, ::-1, 0], extratags=[(274, 3, 1, 3, True)]),
    'float': lambda path: tifffile.imwrite(path, DEEP[..., 0].astype(np.float32)),
    'png': lambda path: cv2.imwrite(str(path), EIGHT[..., ::-1]),
    'bits': lambda path: tifffile.imwrite(path, DEEP[..., 0] > 2000, photometric='minisblack'),
}


@pytest.mark.parametrize('kind', FILES)
def test_tiles_have_the_pixels_of_the_image(part, tmp_path, kind):
    name = 'a.png' if kind == 'png' else 'a.tif'
    part.coco.images[0]['file_name'] = name
    FILES[kind](tmp_path / name)
    _, files = tiled_part(part, SIDE, tmp_path / 'tiles')
    told = []
    write_tiles(tmp_path / 'tiles', tmp_path, files, lambda *words: told.append(words))
    assert told[-1] == ('tiles to validate on', 12, 12)
    expected = {
        'deep colours': DEEP,
        'alpha': EIGHT,
        'png': EIGHT,
        'float': DEEP[..., 0].astype(np.float32),
        'bits': (DEEP[..., 0] > 2000).astype(np.uint8) * 255,
    }.get(kind, np.dstack([DEEP, DEEP[..., :2]]) if 'five' in kind else DEEP[..., 0])
    for file in files:
        x1, y1, x2, y2 = file.window
        pixels = whole_pixels(tmp_path / 'tiles' / file.name)
        wanted = expected[y1:y2, x1:x2]
        assert pixels.dtype == wanted.dtype
        # OpenCV gives grey of 8 bits as three colours
        assert np.array_equal(pixels[..., 0] if pixels.ndim > wanted.ndim else pixels, wanted)


def test_names_tell_images_apart_and_older_tiles_go(part, tmp_path):
    part.coco.images.append({**part.coco.images[0], 'id': 2, 'file_name': 'a.png'})
    part.coco.images.append({**part.coco.images[0], 'id': 3, 'file_name': 'plate/b.png'})
    for name in ('a.tif', 'a.png', 'plate/b.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        FILES['png'](tmp_path / 'x.png')
        (tmp_path / 'x.png').rename(tmp_path / name)
    folder = tmp_path / 'tiles'
    for side in (SIDE, 200):
        tiled, files = tiled_part(part, side, folder)
        write_tiles(folder, tmp_path, files)
        tiled.coco.path.write_bytes(encoded(tiled.document))
        found = {path.relative_to(folder).as_posix() for path in folder.rglob('*.tif')}
        assert found == {file.name for file in files}
        assert len(found) == 3 * (12 if side == SIDE else 4)
    assert {'a.tif_0_0.tif', 'a.png_0_0.tif', 'plate/b_0_0.tif'} <= found
