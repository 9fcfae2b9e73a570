import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmext.analysis.compare import compare
from mmext.analysis.predictions import FILES
from mmext.page.worst_images import image_folder, worst_images


@pytest.fixture
def runs(shown_runs, tmp_path):
    shutil.copytree(shown_runs, tmp_path / 'runs')
    return {run.name: run for run in compare([tmp_path / 'runs'], curves=True).readable}


@pytest.fixture
def two(runs):
    return runs['two <b>stages']


def start_of(run):
    return run.path / run.starts[-1]


def test_pairs_misses_and_false_detections_are_counted(two, demo_data):
    album = worst_images([two])
    document = json.loads((demo_data / 'val/annotations.json').read_text())
    counts = {image['file_name']: 0 for image in document['images']}
    for one in document['annotations']:
        counts[next(i['file_name'] for i in document['images'] if i['id'] == one['image_id'])] += 1
    assert album.problems == ()
    assert {picture.file for picture in album.pictures} == {file for file, count in counts.items() if count}
    for picture in album.pictures:
        (view,) = picture.views
        number = counts[picture.file]
        # all but the first are found as they are; that one is missed, and found where it is not
        assert f'{number - 1} of {number} found' in view.words
        assert view.words.endswith('1 false')
        assert view.quality == pytest.approx((number - 1) / number, abs=0.01)
        kinds = [shape.kind for shape in view.shapes]
        assert kinds.count('matched') == kinds.count('found') == number - 1
        assert (kinds.count('false'), kinds.count('missed')) == (1, 1)
        assert picture.jpeg.startswith('data:image/jpeg;base64,')
    qualities = [picture.views[0].quality for picture in album.pictures]
    assert qualities == sorted(qualities)


def test_an_outline_lies_on_its_object(two, demo_data):
    document = json.loads((demo_data / 'val/annotations.json').read_text())
    picture = worst_images([two]).pictures[0]
    image = next(one for one in document['images'] if one['file_name'] == picture.file)
    boxes = [one['bbox'] for one in document['annotations'] if one['image_id'] == image['id']]
    for shape in picture.views[0].shapes:
        if shape.kind in ('found', 'missed'):
            corners = [tuple(map(float, c.split(','))) for c in shape.path.replace('M', ' ').replace('Z', ' ').split()]
            xs, ys = zip(*corners, strict=True)
            box = min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
            assert min(max(abs(a - b) for a, b in zip(box, other, strict=True)) for other in boxes) < 3


def test_low_scores_are_no_detections(runs):
    view = worst_images([runs['broken']]).pictures[0].views[0]
    assert view.quality == 0
    assert view.words.endswith(', 0 false')


def test_runs_stand_side_by_side(two, runs):
    pictures = worst_images([two, runs['stock'], runs['broken']]).pictures
    assert [view.run for view in pictures[0].views] == [0, 2]


def test_without_predictions_it_says_how_to_keep_them(runs):
    album = worst_images([runs['stock']])
    assert album.pictures == ()
    assert 'mmext.PredictionsHook' in album.problems[0]


def test_a_missing_image_is_said_in_its_place(two, tmp_path, demo_data):
    shutil.copytree(demo_data, tmp_path / 'data')
    for image in (tmp_path / 'data/val').glob('*.png'):
        image.unlink()
    config = start_of(two) / 'vis_data/config.py'
    config.write_text(
        config.read_text().replace(repr('val/annotations.json'), repr(str(demo_data / 'val/annotations.json')))
    )
    config.write_text(config.read_text().replace(f'{demo_data}/', f'{tmp_path}/data/'))
    picture = worst_images([two]).pictures[0]
    assert picture.jpeg is None
    assert picture.problem.startswith(f'the image cannot be read: {tmp_path}/data/val/')


@pytest.mark.parametrize(('spoil', 'words'), [('cut off', 'not a whole file'), ('annotations gone', 'cannot be read')])
def test_broken_files_are_said(two, demo_data, spoil, words):
    file = start_of(two) / FILES['last']
    if spoil == 'cut off':
        file.write_bytes(file.read_bytes()[:200])
        album = worst_images([two])
    else:
        hidden = demo_data / 'val/annotations.json'
        hidden.rename(hidden.with_suffix('.hidden'))
        try:
            album = worst_images([two])
        finally:
            hidden.with_suffix('.hidden').rename(hidden)
    assert album.pictures == ()
    assert words in album.problems[0]


def test_masks_of_another_size_than_the_annotation_file_says(two):
    file = start_of(two) / FILES['last']
    with np.load(file) as kept:
        arrays = dict(kept)
    np.savez(file, **{**arrays, 'sizes': arrays['sizes'] * [2, 1]})
    album = worst_images([two])
    assert album.pictures == ()
    assert 'There are masks of 256x256 and 512x256 (height x width) of one image.' in album.problems[0]


def test_a_run_with_other_images_is_left_out(two, runs):
    other = replace(runs['broken'], name='other')
    file = start_of(other) / FILES['last']
    with np.load(file) as kept:
        arrays = dict(kept)
    about = {**json.loads(arrays['about'].tobytes()), 'sha256': '0' * 64}
    np.savez(file, **{**arrays, 'about': np.frombuffer(json.dumps(about).encode(), np.uint8)})
    album = worst_images([two, other])
    assert album.problems == ('other was validated on other images than two <b>stages.',)
    assert len(album.pictures[0].views) == 1


@pytest.mark.parametrize(
    ('dataset', 'folder'),
    [
        ({'data_root': 'data/', 'ann_file': 'val/a.json', 'data_prefix': {'img': 'val/'}}, '/there/data/val'),
        ({'dataset': {'data_root': 'data', 'ann_file': 'val/a.json', 'data_prefix': {'img': 'pics'}}}, '/there/data/pics'),
        ({'data_root': '', 'ann_file': '/there/data/val/a.json', 'data_prefix': {'img': '/pics'}}, '/pics'),
        ({'ann_file': 'val/a.json', 'data_prefix': 'strange'}, '/there/data'),
        (None, '/there/data/val'),
    ],
)
def test_the_folder_of_the_images(dataset, folder):
    assert image_folder({'val_dataloader': {'dataset': dataset}}, Path('/there/data/val/a.json')) == Path(folder)
