import json

import numpy as np
import pytest
from test_coco_ap import about, cocoeval, made_validation

from mmext.analysis.coco_ap import average_precision, match_predictions, numbers, truth_of
from mmext.analysis.noise import compare_predictions
from mmext.analysis.predictions import FILES, file_hash, pack, read_predictions
from mmext.data.coco_file import read_coco

IMAGES = 20


def worse(images, seed, share):
    """The predictions with a share of them lost."""
    rng = np.random.default_rng(seed)
    changed = []
    for image in images:
        kept = rng.random(len(image['labels'])) >= share
        parts = {
            name: [one for one, keep in zip(image[name], kept, strict=True) if keep]
            for name in ('labels', 'scores', 'boxes', 'rles')
        }
        changed.append({**image, **parts})
    return changed


@pytest.fixture
def runs(tmp_path):
    """Annotations, and a function that writes a run's predictions."""
    document, predictions = made_validation(7, IMAGES)
    file = tmp_path / 'annotations.json'
    file.write_text(json.dumps(document))

    def write(name, share=0.0, which='last', start='20260101_000000', seed=1, images=None, **more):
        folder = tmp_path / name / start
        folder.mkdir(parents=True, exist_ok=True)
        changes = {'ann_file': str(file), 'sha256': file_hash(file), **more}
        images = worse(predictions, seed, share) if images is None else images
        (folder / FILES[which]).write_bytes(pack(images, about(document, **changes)))
        return tmp_path / name

    write.document, write.predictions, write.file = document, predictions, file
    return write


def test_the_numbers_are_cocoevals_and_the_verdict_is_of_mask_ap(runs):
    first, second = runs('uniform'), runs('lost', 0.8)
    found = compare_predictions(first, second, resamples=200)
    assert (found.problem, found.which, found.epochs, found.images) == (None, 'last', (1, 1), IMAGES)
    assert [row.name for row in found.rows[:3]] == ['mask AP', 'mask AP50', 'mask AP75']
    assert [row.name for row in found.rows[6:10]] == ['mask AP, Fiber', 'mask AP, Fragment', 'mask AP, Film', 'box AP']
    for kind, rows in (('segm', found.rows[:9]), ('bbox', found.rows[9:])):
        for side, images in (('first', runs.predictions), ('second', worse(runs.predictions, 1, 0.8))):
            stats, by_class = cocoeval(runs.document, images, kind)
            values = [getattr(row, side) for row in rows]
            assert [-1 if value is None else value for value in values] == pytest.approx([*stats, *by_class], abs=1e-9)
    assert found.verdict == 'worse'
    assert found.rows[0].difference.value == pytest.approx(found.rows[0].second - found.rows[0].first)
    first_line, noise = found.to_lines()
    values = [f'{value:.3f}' for value in (found.rows[0].first, found.rows[0].second)]
    words = (
        f'mask AP of the last validation: {values[0]} for uniform (epoch 1), {values[1]} for lost (epoch 1). lost is worse: '
    )
    assert first_line.startswith(words)
    assert first_line.endswith('20 images.')
    assert noise.startswith("That is the images' noise")
    back = compare_predictions(second, first, resamples=200)
    assert back.verdict == 'better'
    assert back.rows[0].difference.low == pytest.approx(-found.rows[0].difference.high, abs=1e-12)


def test_what_cannot_be_told_apart_ends_with_the_number_that_would_tell(runs):
    found = compare_predictions(runs('a', 0.3, seed=1), runs('b', 0.3, seed=3), resamples=200)
    difference = found.rows[0].difference
    assert found.verdict == 'cannot be told apart'
    assert difference.needed > IMAGES
    (line, _) = found.to_lines()
    assert 'They cannot be told apart with 20 images: difference ' in line
    assert 'To tell a difference of this size takes about ' in line
    assert f'20 tell one of {difference.detectable:.3f} or more' in line


def test_the_same_predictions_do_not_differ(runs):
    found = compare_predictions(runs('a'), runs('b'), resamples=50)
    assert {row.difference.verdict for row in found.rows if row.difference} == {'cannot be told apart'}
    assert 'They are the same on all 20 images.' in found.to_lines()[0]
    assert found.changed == ()


def test_the_images_that_changed_most_are_those_whose_predictions_were_taken_away(runs):
    images = [dict(image) for image in runs.predictions]
    lost = [number for number, image in enumerate(images) if len(image['labels']) > 6][:2]
    for number in lost:
        images[number] |= {'labels': [], 'scores': [], 'boxes': [], 'rles': []}
    found = compare_predictions(runs('a'), runs('b', images=images), resamples=50)
    assert {one.image_id for one in found.changed[:2]} == {images[number]['image_id'] for number in lost}
    read = read_coco(runs.file)
    for one in found.changed:
        annotations = [a for a in read.annotations if a['image_id'] == one.image_id and not a['iscrowd']]
        assert (one.file, one.objects) == (f'{one.image_id}.png', len(annotations))
        if one.image_id in {images[number]['image_id'] for number in lost}:
            assert (one.found[1], one.iou[1], one.false[1]) == (0, None, 0)
            assert one.found[0] > 0
            assert one.effect < 0
    # by how much the difference falls when the image is left out: counted again without it
    one = found.changed[0]
    kept = [image['image_id'] for image in runs.predictions if image['image_id'] != one.image_id]
    truth = truth_of(read, kept, [category['name'] for category in read.categories])
    sides = [read_predictions(next(runs.file.parent.glob(f'{name}/*/*.npz'))) for name in 'ab']
    without = [numbers(average_precision(match_predictions(truth, side, 'segm')))['AP'][0] for side in sides]
    difference = found.rows[0].second - found.rows[0].first
    assert one.effect == pytest.approx(difference - (without[1] - without[0]), abs=1e-12)


def test_a_record_is_json(runs):
    record = json.loads(json.dumps(compare_predictions(runs('a'), runs('b', 0.8), resamples=50).to_record()))
    assert (record['noise'], record['verdict'], record['rows'][0]['verdict']) == ('images', 'worse', 'worse')
    assert len(record['changed']) == 10
    assert record['rows'][0]['difference']['number'] == IMAGES


def test_boxes_alone_are_compared(runs):
    without = [{key: value for key, value in image.items() if key != 'rles'} for image in runs.predictions]
    found = compare_predictions(runs('a'), runs('b', images=without), resamples=50)
    assert {row.kind for row in found.rows} == {'bbox'}


def test_a_run_that_found_nothing_is_worse(runs):
    found = compare_predictions(runs('a'), runs('b', 1.0), resamples=50)
    assert (found.rows[0].name, found.rows[0].second, found.verdict) == ('mask AP', 0, 'worse')


def test_few_images_give_no_verdict(runs, tmp_path):
    document, predictions = made_validation(2, 8)
    runs.file.write_text(json.dumps(document))
    found = compare_predictions(runs('a', images=predictions), runs('b', images=worse(predictions, 0, 0.9)), resamples=50)
    assert found.verdict is None
    assert 'There is no verdict: ' in found.to_lines()[0]
    assert 'images with objects are too few, it takes 15 at least' in found.to_lines()[0]


def test_the_best_is_taken_where_both_have_one(runs):
    first, second = runs('a', which='best', epoch=3), runs('b', which='best', epoch=4)
    runs('a', 0.5), runs('b', 0.5)
    assert compare_predictions(first, second, resamples=9).epochs == (3, 4)
    assert compare_predictions(first, second, which='last', resamples=9).epochs == (1, 1)
    assert compare_predictions(first, runs('c'), resamples=9).which == 'last'
    found = compare_predictions(first, runs('c'), which='best', resamples=9)
    assert found.problem.startswith('no predictions of the best validation were kept of c. ')


def test_a_best_that_a_resume_threw_away_is_not_taken(runs):
    run = runs('a', which='best', iteration=30, epoch=3, start='20260101_000000')
    runs('a', 0.5, which='best', iteration=70, epoch=7, start='20260102_000000', begin=20)
    runs('a', iteration=80, epoch=8, start='20260102_000000', begin=20)
    assert compare_predictions(run, run, resamples=9).epochs == (7, 7)
    # the third start began after iteration 20, so the best of iteration 30 is not of this run; its own has no best yet
    runs('a', iteration=40, epoch=4, start='20260103_000000', begin=20)
    starts = [run / '20260101_000000', run / '20260103_000000']
    found = compare_predictions(starts, starts, names=('a', 'a'), resamples=9)
    assert (found.which, found.epochs) == ('last', (4, 4))
    # of one that began after iteration 30 it is
    runs('a', iteration=40, epoch=4, start='20260103_000000', begin=30)
    assert compare_predictions(starts, starts, names=('a', 'a'), resamples=9).epochs == (3, 3)


def test_other_images_are_not_compared(runs, tmp_path):
    first = runs('a')
    found = compare_predictions(first, runs('b', sha256='other', ann_file='/elsewhere/val.json'))
    assert found.problem.startswith('a and b were validated with different annotation files: ')
    assert found.to_lines() == [f'Whether the difference is noise cannot be said: {found.problem}']
    found = compare_predictions(first, runs('b', images=runs.predictions[:-1]))
    assert 'different images' in found.problem
    found = compare_predictions(first, runs('b', classes=['Fiber']))
    assert 'different classes' in found.problem


def test_an_annotation_file_that_is_gone_or_changed_is_said(runs, tmp_path):
    first, second = runs('a'), runs('b', 0.8)
    moved = tmp_path / 'moved.json'
    runs.file.rename(moved)
    found = compare_predictions(first, second)
    assert 'annotations.json, cannot be read: No such file or directory. Say where it lies now.' in found.problem
    assert compare_predictions(first, second, ann_file=moved, resamples=50).verdict == 'worse'
    moved.write_text(moved.read_text() + ' ')
    assert 'moved.json has changed since the validation' in compare_predictions(first, second, ann_file=moved).problem


def test_what_is_broken_or_missing_is_said(runs, tmp_path):
    first = runs('a')
    (tmp_path / 'empty').mkdir()
    found = compare_predictions(first, tmp_path / 'empty')
    assert found.problem.startswith('no predictions of the last validation were kept of empty. ')
    assert found.verdict is None
    broken = runs('b')
    next(broken.glob('*/*.npz')).write_bytes(b'PK')
    assert 'predictions_last.npz: not a whole file' in compare_predictions(first, broken).problem
    assert json.loads(json.dumps(found.to_record()))['rows'] == []
