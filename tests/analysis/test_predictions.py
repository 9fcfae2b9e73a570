import contextlib
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from test_coco_ap import about, made_validation

from mmext.analysis.predictions import file_hash, pack, read_predictions
from mmext.errors import InputError


def test_what_is_packed_is_read_again(tmp_path):
    document, images = made_validation(1, 5)
    path = tmp_path / 'predictions.npz'
    path.write_bytes(pack(images, about(document, epoch=4)))
    found = read_predictions(path)
    assert (found.about['epoch'], found.about['classes']) == (4, ['Fiber', 'Fragment', 'Film'])
    for image, (image_id, first, last) in zip(images, found.ranges(), strict=True):
        assert image_id == image['image_id']
        assert found.labels[first:last].tolist() == image['labels']
        assert found.scores[first:last].tolist() == image['scores']
        assert found.mask_scores[first:last].tolist() == image['scores']
        assert found.corners[first:last].tolist() == np.reshape(image['boxes'], (-1, 4)).tolist()
        for mine, theirs in zip(found.rles[first:last], image['rles'], strict=True):
            assert np.array_equal(coco_mask.decode(mine), coco_mask.decode(theirs))
    x1, y1, x2, y2 = found.corners.T
    assert np.array_equal(found.boxes, np.stack([x1, y1, x2 - x1, y2 - y1], 1))


def test_masks_and_their_own_scores_are_there_or_not(tmp_path):
    path = tmp_path / 'predictions.npz'
    one = {'image_id': 1, 'size': (9, 9), 'labels': [0], 'scores': [0.5], 'boxes': [[0, 0, 2, 2]]}
    document = {'categories': []}
    path.write_bytes(pack([one], about(document)))
    assert read_predictions(path).rles is None
    path.write_bytes(pack([{**one, 'mask_scores': [0.25]}], about(document)))
    assert read_predictions(path).mask_scores.tolist() == [0.25]
    nothing = {'image_id': 1, 'size': (9, 9), 'labels': [], 'scores': [], 'boxes': [], 'rles': []}
    path.write_bytes(pack([nothing, {**nothing, 'image_id': 2}], about(document)))
    found = read_predictions(path)
    assert (found.rles, len(found.boxes), list(found.ranges())) == ([], 0, [(1, 0, 0), (2, 0, 0)])


def whole_file():
    document, images = made_validation(1, 2)
    return pack(images, about(document))


@settings(deadline=None, max_examples=100)
@given(cut=st.integers(0, 3000), place=st.integers(0, 3000), byte=st.integers(0, 255))
def test_a_broken_file_is_said_to_be_broken(tmp_path_factory, cut, place, byte):
    path = tmp_path_factory.getbasetemp() / 'broken.npz'
    data = bytearray(whole_file())
    data[place % len(data)] = byte
    path.write_bytes(bytes(data[: cut % len(data)] if cut % 2 else data))
    with contextlib.suppress(InputError):  # nothing else is raised; a byte may be that one, or not count
        found = read_predictions(path)
        assert len(found.scores) == found.counts.sum()


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'schema_version': 9}, 'version 9, this mmext reads 1'),
        ({'sha256': None}, 'it does not say sha256'),
        ({'image_ids': [1]}, 'its arrays do not fit together'),
    ],
)
def test_a_file_that_says_something_else_is_refused(tmp_path, change, words):
    with np.load(io.BytesIO(whole_file())) as file:
        arrays = dict(file)
    record = json.loads(arrays['about'].tobytes()) | change
    record = {key: value for key, value in record.items() if value is not None}
    path = tmp_path / 'predictions.npz'
    np.savez(path, **{**arrays, 'about': np.frombuffer(json.dumps(record).encode(), np.uint8)})
    with pytest.raises(InputError, match=words):
        read_predictions(path)


def test_no_code_is_run_and_no_file_is_said(tmp_path):
    path = tmp_path / 'predictions.npz'
    np.savez(path, about=np.array([{'a': 1}], object))
    with pytest.raises(InputError, match=r'not a whole file of mmext\.PredictionsHook'):
        read_predictions(path)
    with pytest.raises(InputError, match=r'gone\.npz: cannot be read: No such file'):
        read_predictions(tmp_path / 'gone.npz')
    path.write_bytes(b'abc')
    assert file_hash(path).startswith('ba7816bf')
