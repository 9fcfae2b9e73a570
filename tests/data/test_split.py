import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmext.data.coco_file import CocoFile
from mmext.data.split import MARK, Part, _fraction, check_targets, encoded, split_part
from mmext.errors import InputError


def part_of(objects, samples):
    """Images with so many objects each, the i-th of sample ``samples[i]``."""
    images = [{'id': i + 1, 'file_name': f's{sample}_f{i}.png', 'width': 9, 'height': 9} for i, sample in enumerate(samples)]
    annotations = [
        {'id': 100 * i + j, 'image_id': i + 1, 'category_id': 1 + j % 2, 'bbox': [0, 0, 5, 5], 'area': 25, 'iscrowd': 0}
        for i, number in enumerate(objects)
        for j in range(number)
    ]
    categories = [{'id': 1, 'name': 'Fiber'}, {'id': 2, 'name': 'Film'}]
    document = {'licenses': ['mine'], 'images': images, 'annotations': annotations, 'categories': categories}
    return Part('train', Path('a.json'), CocoFile(Path('a.json'), images, annotations, categories), Path('i'), document)


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 9)), min_size=2, max_size=20),
    st.floats(0.05, 0.95),
    st.integers(0, 9),
)
@settings(max_examples=50, deadline=None)
def test_a_split_keeps_samples_whole_and_loses_nothing(scenes, share, seed):
    objects, samples = zip(*scenes, strict=True)
    part = part_of(objects, samples)
    if len(set(samples)) < 2:
        with pytest.raises(InputError, match='cannot be in both parts'):
            split_part(part, share, '(.*)_f', seed, Path('my.py'))
        return
    train, val = split_part(part, share, '(.*)_f', seed, Path('my.py'))
    assert [train.coco.path.name, val.coco.path.name] == ['my_train_annotations.json', 'my_val_annotations.json']
    of_sample = [{image['file_name'].partition('_')[0] for image in one.coco.images} for one in (train, val)]
    assert of_sample[0].isdisjoint(of_sample[1])
    for key in ('images', 'annotations'):
        both = [*train.document[key], *val.document[key]]
        assert sorted(entry['id'] for entry in both) == [entry['id'] for entry in part.document[key]]
    for one in (train, val):
        assert {entry['image_id'] for entry in one.coco.annotations} <= {image['id'] for image in one.coco.images}
        assert one.document['licenses'] == ['mine']
        assert next(iter(one.document)) == MARK
    again = split_part(part, share, '(.*)_f', seed, Path('my.py'))
    assert [encoded(one.document) for one in again] == [encoded(one.document) for one in (train, val)]


def test_the_share_is_met_as_closely_as_samples_allow():
    part = part_of([4] * 20, range(20))
    for share, number in ((0.2, 4), (0.25, 5), (0.3, 6), (0.5, 10)):
        _, val = split_part(part, share, None, 0, Path('my.py'))
        assert len(val.coco.images) == number
    assert [_fraction(share, 4) for share in (0.01, 0.2, 0.7, 0.99)] == [
        Fraction(1, 4),
        Fraction(1, 4),
        Fraction(2, 3),
        Fraction(3, 4),
    ]


@pytest.mark.parametrize(
    ('sizes', 'held_out'),
    [((10, 2), {2}), ((9, 3), {3}), ((8, 4), {4}), ((6, 4, 2), {2, 4}), ((9, 2, 1), {1, 2, 3}), ((5, 5, 5, 5, 5), {5})],
)
@pytest.mark.parametrize('seed', [0, 1, 2])
def test_samples_of_other_sizes_come_near_to_the_share(sizes, held_out, seed):
    samples = [sample for sample, size in enumerate(sizes) for _ in range(size)]
    train, val = split_part(part_of([3] * len(samples), samples), 0.2, '(s[0-9]+)_', seed, Path('my.py'))
    assert len(val.coco.images) in held_out
    assert any('were asked for' in line for line in train.lines) == (abs(len(val.coco.images) / len(samples) - 0.2) > 0.1)


def test_the_pattern_is_said_as_it_was_typed():
    part, _ = split_part(part_of([2] * 4, range(4)), 0.5, r'(s\d+)_', 0, Path('my.py'))
    assert r"a sample is by '(s\d+)_'" in part.lines[-4]


def test_a_part_without_an_object_is_refused():
    part = part_of([3, 0], [0, 1])
    with pytest.raises(InputError, match=r'of 2 images and no object\. Give another --seed or share'):
        split_part(part, 0.5, None, 0, Path('my.py'))


def test_what_is_there_is_written_over_only_when_it_is_ours(tmp_path):
    train, val = split_part(part_of([2] * 4, range(4)), 0.5, None, 0, tmp_path / 'my.py')
    check_targets([train, val], force=False)
    train.coco.path.write_bytes(encoded(train.document))
    with pytest.raises(InputError, match=r'is there already\. Give another name, or --force'):
        check_targets([train, val], force=False)
    check_targets([train, val], force=True)
    train.coco.path.write_text(json.dumps({'images': [], MARK: {}}))
    with pytest.raises(InputError, match='was not written by `mmext init`'):
        check_targets([train, val], force=True)
