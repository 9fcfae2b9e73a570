import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmext.analysis.shares import ORIENTATION, bands_hold, by_family, family_of, shares, unweighted


def losses(rpn_cls, rpn_bbox, cls, bbox, mask):
    return {
        'loss_rpn_cls': rpn_cls,
        'loss_rpn_bbox': rpn_bbox,
        'loss_cls': cls,
        'loss_bbox': bbox,
        'loss_mask': mask,
        'loss': rpn_cls + rpn_bbox + cls + bbox + mask,
    }


# the single-epoch vectors of the source document on loss breakdown: losses, its total, its mask share
VECTORS = {
    'log epoch 1': (losses(0.2987, 0.2334, 0.3567, 0.2456, 0.4890), 1.6234, 0.301),
    'healthy epoch 1': (losses(0.450, 0.180, 0.350, 0.250, 0.400), 1.630, 0.245),
    'healthy epoch 10': (losses(0.080, 0.050, 0.100, 0.080, 0.150), 0.460, 0.326),
    'workflow epoch 5': (losses(0.0567, 0.1087, 0.1456, 0.1234, 0.3890), 0.8234, 0.472),
    'log epoch 20': (losses(0.0234, 0.0743, 0.0567, 0.0456, 0.1234), 0.3234, 0.382),
    'problem 3': (losses(0.050, 0.030, 0.080, 0.060, 0.400), 0.620, 0.645),
}


@pytest.mark.parametrize('name', VECTORS)
def test_mask_share_of_the_source_documents_vectors(name):
    values, total, share = VECTORS[name]
    assert sum(by_family(values).values()) == pytest.approx(total)
    assert shares(values)['mask'] == pytest.approx(share, abs=5e-4)


def test_every_vector_leaves_a_band_so_bands_are_no_verdict():
    for values, _, _ in VECTORS.values():
        parts = shares(values)
        assert any(not low <= 100 * parts[family] <= high for family, ((low, high), _, _) in _bands())


def _bands():
    return [(family, (usual.share, usual.training, usual.end)) for family, usual in ORIENTATION.items()]


@pytest.mark.parametrize(
    ('name', 'family'),
    [
        ('loss_mask', 'mask'),
        ('loss_point', 'mask'),
        ('loss_mask_iou', 'mask_iou'),
        ('s2.loss_bbox', 'bbox'),
        ('loss_rpn_cls', 'rpn_cls'),
        ('stage0_loss_cls', 'cls'),
        ('enc_loss_bbox', 'bbox'),
        ('d3.loss_mask', 'mask'),
        ('share_odd_loss_name', None),
        ('raw_share_odd_loss_name', None),
        ('loss_semantic_seg', 'semantic_seg'),
        ('loss_foo', 'foo'),
        ('foo_loss', 'foo'),
        ('loss', None),
        ('acc', None),
        ('s0.acc', None),
        ('share_mask', None),
        ('grad_norm', None),
    ],
)
def test_family_of(name, family):
    assert family_of(name) == family


def test_stages_and_points_are_summed():
    found = by_family(
        {'s0.loss_cls': 1.0, 's1.loss_cls': 0.5, 'loss_mask': 0.2, 'loss_point': 0.1, 'loss': 9.0, 'time': 3.0}
    )
    assert found == {'cls': 1.5, 'mask': pytest.approx(0.3)}


def test_weights_are_taken_out():
    assert unweighted({'loss_mask': 1.0, 'loss_cls': 0.5, 'loss_foo': 0.0}, {'loss_mask': 2.0, 'loss_foo': 0.0}) == {
        'loss_mask': 0.5,
        'loss_cls': 0.5,
    }


def test_bands_are_for_plain_mask_rcnn_only():
    plain = VECTORS['problem 3'][0]
    assert bands_hold(plain, {}, 'CrossEntropyLoss')
    assert not bands_hold(plain, {'loss_mask': 0.5}, 'CrossEntropyLoss')
    assert not bands_hold(plain, {}, 'GCELoss')
    assert not bands_hold(plain | {'loss_boundary': 0.3}, {}, 'CrossEntropyLoss')  # S4 knows no second mask loss
    assert not bands_hold(plain | {'loss_mask_iou': 0.1}, {}, 'CrossEntropyLoss')
    assert not bands_hold({'loss_mask': 1.0, 'loss_cls': 1.0}, {}, 'CrossEntropyLoss')


def test_no_share_without_a_total():
    assert shares({}) == {}
    assert shares({'loss_mask': 0.0}) == {}
    assert shares({'loss_mask': float('nan'), 'loss_cls': 1.0}) == {}
    assert shares({'loss_mask': float('inf')}) == {}


NAMES = st.sampled_from([*VECTORS['problem 3'][0], 's0.loss_cls', 'loss_point', 'loss_new', 'acc'])


@given(st.dictionaries(NAMES, st.floats(1e-6, 1e6)))
def test_shares_sum_to_one(values):
    found = shares(values)
    if found:
        assert sum(found.values()) == pytest.approx(1)
