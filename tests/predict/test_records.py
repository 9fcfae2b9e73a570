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
from mmext.predict.records import check_names, keep_settings, read_record, record_path, stamp_of, to_record, write_joined

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
    path.write_bytes(to_record(image, instances, stamp_of(image)))


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


def test_other_settings_are_taken_where_nothing_is_done(tmp_path):
    for tile in (1, 1024):
        keep_settings(tmp_path, {'tile': tile}, False, ())
    assert json.loads((tmp_path / 'settings.json').read_text())['tile'] == 1024


def test_a_record_is_of_the_picture_that_was_read(image, tmp_path):
    stamp = stamp_of(image)
    image.path.write_bytes(b'other pixels')
    path = record_path(tmp_path, image)
    path.parent.mkdir()
    path.write_bytes(to_record(image, made([0.5], [[0, 0, 1, 1]]), stamp))
    assert read_record(tmp_path, image) is None
    image.path.unlink()
    assert read_record(tmp_path, image) is None
    with pytest.raises(InputError, match=r'a\.png: it is no longer there'):
        stamp_of(image)


def test_another_image_of_that_name_is_refused(image, tmp_path):
    keep(tmp_path, image, made([], []))
    (tmp_path / 'link').symlink_to(tmp_path)
    check_names(tmp_path, [image, ImageFile(tmp_path / 'link' / 'a.png', 'a.png', 'a')])
    other = ImageFile(tmp_path / 'plate' / 'a.png', 'a.png', 'a')
    with pytest.raises(InputError, match=rf'{image.path} under the name a, which {other.path} would.*--force'):
        check_names(tmp_path, [image, other])
    record_path(tmp_path, image).write_bytes(b'{')
    check_names(tmp_path, [other])


def texts(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.name != 'written.json'}


def test_a_file_that_a_person_has_edited_stays(tmp_path):
    mine, new, third = (tmp_path / f'a.{part}json' for part in ('', 'new.', 'new2.'))
    assert write_joined(tmp_path, {'a.json': 'one', 'b.csv': 'x'}) == ([mine, tmp_path / 'b.csv'], [])
    assert write_joined(tmp_path, {'a.json': 'two', 'b.csv': 'x'}) == (
        [mine, tmp_path / 'b.csv'],
        [],
    )  # nobody has edited it
    mine.write_text('corrected')
    for content in ('two', 'three', 'three'):
        files, (line,) = write_joined(tmp_path, {'a.json': content, 'b.csv': 'y'})
        assert texts(tmp_path) == {'a.json': 'corrected', 'a.new.json': content, 'b.csv': 'y'}
        assert files == [new, tmp_path / 'b.csv']
        assert line == f'{mine} is not as mmext wrote it, so it stays; the new one is {new}.'
    new.write_text('corrected too')
    files, _ = write_joined(tmp_path, {'a.json': 'four'})
    assert texts(tmp_path) == {'a.json': 'corrected', 'a.new.json': 'corrected too', 'a.new2.json': 'four', 'b.csv': 'y'}
    assert files == [third]
    mine.unlink()
    assert write_joined(tmp_path, {'a.json': 'five'}) == ([mine], [])


@pytest.mark.parametrize('hashes', [None, '{', '[]', '{"a.json": 1}'])
def test_a_file_of_which_nothing_is_known_stays(tmp_path, hashes):
    (tmp_path / 'a.json').write_text('somebody')
    if hashes is not None:
        (tmp_path / 'written.json').write_text(hashes)
    write_joined(tmp_path, {'a.json': 'one'})
    assert texts(tmp_path) == {'a.json': 'somebody', 'a.new.json': 'one'}


@pytest.mark.parametrize('writes', [1, 2, 3])
def test_a_file_that_was_killed_when_written_is_still_ours(tmp_path, monkeypatch, writes):
    from mmext.predict import records

    write_joined(tmp_path, {'a.json': 'one'})
    write, left = records.write_atomically, [None] * (writes - 1)

    def killed(data, path):
        if not left:
            raise KeyboardInterrupt
        left.pop()
        write(data, path)

    monkeypatch.setattr(records, 'write_atomically', killed)
    with pytest.raises(KeyboardInterrupt):
        write_joined(tmp_path, {'a.json': 'two'})
    monkeypatch.setattr(records, 'write_atomically', write)
    assert write_joined(tmp_path, {'a.json': 'three'}) == ([tmp_path / 'a.json'], [])
    assert texts(tmp_path) == {'a.json': 'three'}
