import json
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmext.data.folds import fold_lines, fold_rows, make_folds, write_folds
from mmext.errors import InputError

CLASSES = ('Film', 'Fiber', 'Fragment')  # neither by name nor by number


@pytest.fixture(scope='session')
def write_file(tmp_path_factory):
    """Writes a COCO file: of each image its name and the classes of its objects."""
    folder = tmp_path_factory.mktemp('folds')

    def write(images, crowd=(), name='all.json'):
        document = {
            'info': {'by': 'a lab'},
            'licenses': [{'id': 3}],
            'images': [
                {'id': 10 * i, 'file_name': file_name, 'width': 9, 'height': 9, 'license': 3}
                for i, (file_name, _) in enumerate(images)
            ],
            'annotations': [
                {'image_id': 10 * i, 'category_id': 7 - label, 'bbox': [1, 1, 3, 3], 'area': 9, 'iscrowd': int(i in crowd)}
                for i, (_, labels) in enumerate(images)
                for label in labels
            ],
            'categories': [{'id': 7 - label, 'name': one} for label, one in enumerate(CLASSES)],
        }
        for number, one in enumerate(document['annotations'], 1):
            one['id'] = number
        path = folder / name
        path.write_text(json.dumps(document))
        return path

    return write


images_of_groups = st.lists(
    st.tuples(st.integers(0, 9), st.lists(st.integers(0, 2), max_size=5)), min_size=8, max_size=24
).map(lambda rows: [(f'slide{group}_{i}.png', labels) for i, (group, labels) in enumerate(rows)])


@given(images_of_groups, st.integers(2, 4), st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_folds_part_the_file_and_no_sample_is_in_two(write_file, images, number, seed):
    groups = {name.split('_')[0] for name, _ in images}
    path = write_file(images)
    if len(groups) < number:
        with pytest.raises(InputError, match=r'cannot fill|nothing to cut'):
            make_folds(path, number, '^[^_]+', seed)
        return
    folds = make_folds(path, number, '^[^_]+', seed)
    assert set(folds.fold) == set(range(number))  # none is empty
    at = {}
    for (name, _), fold in zip(images, folds.fold, strict=True):
        assert at.setdefault(name.split('_')[0], fold) == fold
    rows = fold_rows(folds)
    total = Counter(CLASSES[label] for _, labels in images for label in labels)
    for row in rows:
        assert sum(row.images) == len(images)
        assert sum(row.groups) == len(groups)
        assert {name: sum(pair) for name, pair in row.instances.items()} == {name: total[name] for name in CLASSES}
    assert sum(row.images[1] for row in rows) == len(images)
    assert sum(row.groups[1] for row in rows) == len(groups)


def test_every_fold_gets_its_share_of_a_rare_class_that_comes_in_bunches(write_file):
    # 5 images have all of class 2; by images alone a fold may get none, or several
    images = [(f'{i}.png', [0] * 4 + [1] * (i % 3) + ([2] * 6 if i % 8 == 0 else [])) for i in range(40)]
    for seed in range(3):
        rows = fold_rows(make_folds(write_file(images), 5, seed=seed))
        assert [row.instances['Fragment'][1] for row in rows] == [6] * 5
        assert all(row.images[1] in (7, 8, 9) for row in rows)
        assert all(4 < row.instances['Fiber'][1] < 12 for row in rows)  # even would be 7.8


def test_files_have_whole_categories_the_rest_of_the_document_and_each_annotation_once(write_file, tmp_path):
    images = [(f'slide{i // 2}_{i}.png', [i % 3, 0]) for i in range(12)]
    path = write_file(images)
    whole = json.loads(path.read_text())
    written = write_folds(make_folds(path, 3, 'slide[0-9]+'), tmp_path / 'out')
    assert [pair[0].relative_to(tmp_path).as_posix() for pair in written] == [f'out/fold{k}/train.json' for k in range(3)]
    seen = []
    for train, val in (tuple(json.loads(one.read_text()) for one in pair) for pair in written):
        for part in (train, val):
            assert part['categories'] == whole['categories']
            assert (part['info'], part['licenses']) == (whole['info'], whole['licenses'])
            here = {image['id'] for image in part['images']}
            assert {one['image_id'] for one in part['annotations']} <= here
        for key in ('images', 'annotations'):
            assert sorted(one['id'] for one in train[key] + val[key]) == sorted(one['id'] for one in whole[key])
            assert [one['id'] for one in train[key]] == sorted(one['id'] for one in train[key])
        assert {one['file_name'].split('_')[0] for one in train['images']}.isdisjoint(
            one['file_name'].split('_')[0] for one in val['images']
        )
        seen += [image['id'] for image in val['images']]
    assert sorted(seen) == [image['id'] for image in whole['images']]
    record = json.loads((tmp_path / 'out/folds.json').read_text())
    assert (record['seed'], record['group_by'], record['number'], len(record['sha256'])) == (0, 'slide[0-9]+', 3, 64)
    assert sorted(one for fold in record['folds'] for one in fold['val_image_ids']) == sorted(seen)


def test_the_same_seed_gives_the_same_bytes_in_another_process(write_file, tmp_path):
    path = write_file([(f'{i}.png', [i % 3, (i // 2) % 3]) for i in range(20)], name='seeded.json')
    write_folds(make_folds(path, 4, seed=3), tmp_path / 'here')
    write_folds(make_folds(path, 4, seed=4), tmp_path / 'other')
    code = 'import sys; from mmext.data.folds import *; write_folds(make_folds(sys.argv[1], 4, seed=3), sys.argv[2])'
    subprocess.run([sys.executable, '-c', code, path, tmp_path / 'there'], check=True)
    here, there, other = (
        {one.relative_to(tmp_path / folder): one.read_bytes() for one in (tmp_path / folder).rglob('*.json')}
        for folder in ('here', 'there', 'other')
    )
    assert len(here) == 9
    assert here == there
    assert here != other


def test_an_image_that_is_listed_twice_is_one_sample(write_file):
    images = [(f'{i // 2}.png', [0]) for i in range(16)]
    folds = make_folds(write_file(images), 4)
    assert list(folds.fold[::2]) == list(folds.fold[1::2])


def test_what_a_fold_lacks_is_said_with_its_names(write_file):
    images = [(f'a_{i}.png', [0]) for i in range(4)] + [(f'b_{i}.png', [0, 1]) for i in range(4)]
    rows = fold_rows(make_folds(write_file(images), 2, '^(.)_'))
    with_fiber = next(row.name for row in rows if row.instances['Fiber'][1])
    without = next(row.name for row in rows if not row.instances['Fiber'][1])
    lines = fold_lines(rows)
    assert f'Warning: Fiber is missing from train of {with_fiber}: it is not learnt there.' in lines
    assert f'Warning: Fiber is missing from val of {without}: it has no AP there.' in lines
    assert 'Warning: Fragment has no instance in the whole file.' in lines
    assert lines[0] == (
        f'Of the instances of a class a fold validates on 0.0% (Fiber, {without}) to 100.0% (Fiber, {with_fiber}); even '
        'would be 50.0%.'
    )


def test_crowd_regions_are_no_instances(write_file):
    images = [(f'{i}.png', [0, 1]) for i in range(4)]
    row = fold_rows(make_folds(write_file(images, crowd=(0, 1)), 2))[0]
    assert sum(row.instances['Film']) == 2


@pytest.mark.parametrize(
    ('number', 'group_by', 'words'),
    [
        (1, None, '--folds: 1 is too few'),
        (5, None, '4 images cannot fill 5 folds: each needs one at least. Give --folds 4 or fewer'),
        (3, '^.', "2 groups by '\\^.' cannot fill 3 folds.*Give --folds 2 or fewer, or a --group-by that tells more"),
        (2, 'png', "1 groups by 'png': there is nothing to cut"),
        (2, '[', r"--group-by: '\[' is not a regular expression"),
        (2, 'a(.)', r'finds no group in 2 of 4 file names: b0.png, b1.png. Every image must have one'),
        (2, '(a)|b', r'finds no group in 2 of 4 file names: b0.png'),
    ],
)
def test_wrong_arguments(write_file, number, group_by, words):
    path = write_file([(name, [0]) for name in ('a0.png', 'a1.png', 'b0.png', 'b1.png')])
    with pytest.raises(InputError, match=words):
        make_folds(path, number, group_by)


def test_other_folds_are_not_written_over(write_file, tmp_path):
    path = write_file([(f'{i}.png', [i % 3]) for i in range(12)])
    write_folds(make_folds(path, 3), tmp_path)
    write_folds(make_folds(path, 3), tmp_path)  # the same again
    before = (tmp_path / 'fold0/train.json').read_bytes()
    with pytest.raises(InputError, match='other folds lie there'):
        write_folds(make_folds(path, 3, seed=1), tmp_path)
    assert (tmp_path / 'fold0/train.json').read_bytes() == before


def test_it_loads_no_scikit_learn_before_it_is_needed():
    code = 'import sys, mmext.data.folds; print([m for m in ("torch", "sklearn", "numpy") if m in sys.modules])'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'
