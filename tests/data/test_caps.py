import pytest

from mmext.data.caps import ANCHORS_AN_OBJECT, PROPOSALS_AN_OBJECT, as_changes, detection_cap, model_caps

TWO_STAGES = {
    'train_cfg': {'rpn_proposal': {'nms_pre': 2000, 'max_per_img': 1000}, 'rcnn': [{'sampler': {'num': 512}}] * 3},
    'test_cfg': {'rpn': {'nms_pre': 1000, 'max_per_img': 1000}, 'rcnn': {'score_thr': 0.05, 'max_per_img': 100}},
}


def test_detections_are_a_quarter_more_than_objects():
    assert [detection_cap(most, 100) for most in (0, 5, 80, 81, 101, 250)] == [100, 100, 100, 150, 150, 350]


def test_few_objects_change_nothing():
    caps = model_caps(TWO_STAGES, 20, 20)
    assert len(caps) == 5
    assert not any(cap.is_low for cap in caps)
    assert as_changes(caps) == {}


def test_each_limit_follows_the_images_that_it_is_used_on():
    needed = {cap.key.removeprefix('model.'): cap.needed for cap in model_caps(TWO_STAGES, 500, 1000)}
    assert needed == {
        'test_cfg.rcnn.max_per_img': 1250,
        'test_cfg.rpn.max_per_img': 1000 * PROPOSALS_AN_OBJECT,
        'test_cfg.rpn.nms_pre': 1000 * ANCHORS_AN_OBJECT,
        'train_cfg.rpn_proposal.max_per_img': 500 * PROPOSALS_AN_OBJECT,
        'train_cfg.rpn_proposal.nms_pre': 500 * ANCHORS_AN_OBJECT,
    }


def test_only_what_is_too_low_is_changed():
    assert as_changes(model_caps(TWO_STAGES, 5, 200)) == {
        'test_cfg': {'rcnn': {'max_per_img': 250}, 'rpn': {'nms_pre': 200 * ANCHORS_AN_OBJECT}}
    }


def test_without_an_rpn_candidates_keep_their_proportion():
    caps = model_caps({'test_cfg': {'nms_pre': 500, 'score_thr': 0.1, 'max_per_img': 100}}, 250, 250)
    assert as_changes(caps) == {'test_cfg': {'max_per_img': 350, 'nms_pre': 1750}}


@pytest.mark.parametrize(
    'model', [{}, {'test_cfg': None}, {'test_cfg': {'rcnn': {'max_per_img': -1}, 'rpn': {'nms_pre': -1}}}]
)
def test_what_has_no_limit_has_none(model):
    assert model_caps(model, 1000, 1000) == []
