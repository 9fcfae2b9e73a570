from pathlib import Path

import numpy as np
import pytest
from test_coco_ap import made_validation, matches_of

from mmext.analysis.bootstrap import resampled
from mmext.analysis.changes import image_change, left_out_effects, most_changed
from mmext.analysis.coco_ap import average_precision, mean_of, truth_of
from mmext.data.coco_file import CocoFile

IMAGES = 40


@pytest.fixture(scope='module')
def sides(tmp_path_factory):
    """Matches of two models on the same images, and the ground truth."""
    document, first = made_validation(3, IMAGES)
    rng = np.random.default_rng(0)
    second = [{**image, 'scores': rng.permutation(image['scores']).tolist()} for image in first]
    file = CocoFile(Path('x.json'), document['images'], document['annotations'], document['categories'])
    truth = truth_of(file, [image['id'] for image in document['images']], file.classes)
    folder = tmp_path_factory.mktemp('sides')
    return (*(matches_of(document, images, 'segm', folder) for images in (first, second)), truth)


def difference(first, second, weights):
    return mean_of(average_precision(second, weights)[:, 0]) - mean_of(average_precision(first, weights)[:, 0])


def test_effects_are_those_of_leaving_out(sides):
    first, second, _ = sides
    effects = left_out_effects(first, second, np.array([3, 7]))
    weights = np.ones((3, IMAGES), int)
    weights[1, 3] = weights[2, 7] = 0
    whole, without_third, without_seventh = difference(first, second, weights)
    assert effects == pytest.approx([whole - without_third, whole - without_seventh], abs=1e-14)


def test_the_largest_effects_come_first(sides):
    first, second, truth = sides
    weights = resampled(IMAGES, 300)
    found = most_changed(first, second, truth, weights, difference(first, second, weights))
    effects = left_out_effects(first, second, np.arange(IMAGES))
    assert [one.effect for one in found] == pytest.approx(effects[np.argsort(-np.abs(effects))[:10]])
    assert [one.image_id for one in found[:3]] == [truth.image_ids[i] for i in np.argsort(-np.abs(effects))[:3]]


def test_of_many_images_the_likeliest_are_left_out(sides, monkeypatch):
    first, second, truth = sides
    weights = resampled(IMAGES, 2000)
    draws = difference(first, second, weights)
    every = most_changed(first, second, truth, weights, draws, 3)
    monkeypatch.setattr('mmext.analysis.changes._LEFT_OUT', 15)
    assert most_changed(first, second, truth, weights, draws, 3) == every


def test_counts_of_an_image(sides):
    first, second, truth = sides
    one = image_change(first, second, truth, 0, 0.5)
    assert (one.image_id, one.file, one.effect) == (truth.image_ids[0], truth.files[0], 0.5)
    assert one.objects == sum(int(found.positives[0, 0]) for found in first.by_class)
    for side, matches in enumerate((first, second)):
        assert one.found[side] <= one.objects
        ious = np.concatenate([found.iou[(found.image == 0) & found.hit[0, 0]] for found in matches.by_class])
        assert len(ious) == one.found[side]
        assert one.iou[side] == (pytest.approx(ious.mean()) if len(ious) else None)
        assert ious.min(initial=1) >= 0.5
