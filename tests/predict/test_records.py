import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from mmext.errors import InputError
from mmext.predict.image_files import ImageFile
from mmext.predict.instances import Instances
from mmext.predict.records import keep_settings, read_record, record_path, to_record

SINGLE = st.floats(-1e3, 1e3, width=32)


@pytest.fixture
def image(tmp_path):
    (tmp_path / 'a.png').write_bytes(b'pixels')
    return ImageFile(tmp_path / 'a.png', 'a.png', 'a')


def made(scores, boxes):
    rle = coco_mask.encode(np.asfortranarray(np.eye(5, 7, dtype=np.uint8)))
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    scores = np.array(scores, np.float32)
    return Instances((5, 7), np.arange(len(scores)), scores, boxes, [rle] * len(scores), tuple('abc'))


def keep(out, image, instances):
    path = record_path(out, image)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(to_record(image, instances))


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1, width=32), SINGLE, SINGLE), max_size=3))
def test_all_comes_back_to_the_last_bit(tmp_path_factory, numbers):
    folder = tmp_path_factory.mktemp('records')
    (folder / 'a.png').touch()
    image = ImageFile(folder / 'a.png', 'a.png', 'deep/a')
    written = made([score for score, *_ in numbers], [[x, y, x, y] for _, x, y in numbers])
    keep(folder, image, written)
    found = read_record(folder, image)
    for name in ('labels', 'scores', 'boxes'):
        assert np.array_equal(getattr(found, name), getattr(written, name))
        assert getattr(found, name).dtype == getattr(written, name).dtype
    assert (found.size, found.class_names, list(found.rles)) == (written.size, written.class_names, list(written.rles))


def test_another_image_of_that_name_is_not_done(image, tmp_path):
    keep(tmp_path, image, made([0.5], [[0, 0, 1, 1]]))
    assert read_record(tmp_path, image) is not None
    os.utime(image.path, ns=(1, 1))
    assert read_record(tmp_path, image) is None
    keep(tmp_path, image, made([0.5], [[0, 0, 1, 1]]))
    (tmp_path / 'b.png').write_bytes(b'pixels')
    assert read_record(tmp_path, ImageFile(tmp_path / 'b.png', 'a.png', 'a')) is None


@pytest.mark.parametrize('content', [b'', b'{', b'[]', b'{"schema_version": 1}', b'{"schema_version": 99}'])
def test_a_broken_record_is_as_none(image, tmp_path, content):
    record_path(tmp_path, image).parent.mkdir()
    record_path(tmp_path, image).write_bytes(content)
    assert read_record(tmp_path, image) is None


def test_other_settings_are_refused_unless_by_force(image, tmp_path):
    out = tmp_path / 'out'
    before = {'checkpoint': 'a.pth', 'checkpoint_sha256': 'x', 'mask_thr': None, 'tile': None}
    keep_settings(out, before, False, ('npz',))
    keep(out, image, made([0.5], [[0, 0, 1, 1]]))
    (out / 'npz').mkdir()
    keep_settings(out, {**before, 'checkpoint': 'moved/a.pth'}, False, ('npz',))  # the same file elsewhere
    with pytest.raises(InputError, match=r'other settings: mask thr was None, now 0.4; tile was None, now 9.*--force'):
        keep_settings(out, {**before, 'mask_thr': 0.4, 'tile': 9}, False, ('npz',))
    assert read_record(out, image) is not None
    keep_settings(out, {**before, 'mask_thr': 0.4}, True, ('npz',))
    assert read_record(out, image) is None
    assert not (out / 'npz').exists()
    assert json.loads((out / 'settings.json').read_text())['mask_thr'] == 0.4
    with pytest.raises(InputError, match=r'a\.png is a file; give a folder'):
        keep_settings(image.path, before, False, ())
