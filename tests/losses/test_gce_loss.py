import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models.losses import CrossEntropyLoss
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from mmext.errors import InputError
from mmext.losses import GCELoss
from mmext.losses.gce_loss import class_gce, generalized, mask_gce
from mmext.registry import MODELS

TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
# q = 1e-8 is cross-entropy to 5e-7 at |logit| = 10: the next term of its series is q * logp**2 / 2
LIMIT = {'q': 1e-8, 'atol': 1e-6, 'rtol': 0}
logits_to_1e4 = st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=6)
exponents = st.floats(0, 1, exclude_min=True)


def grid(limit=10.0, points=401):
    return torch.linspace(-limit, limit, points, dtype=torch.float64)


def drawn(*shape, seed=0, scale=3.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def with_gradient(values, compute):
    leaf = values.detach().clone().requires_grad_()
    result = compute(leaf)
    result.sum().backward()
    return result.detach(), leaf.grad


# ---- the formula


@pytest.mark.parametrize('q', [0.1, 0.7, 1.0])
@pytest.mark.parametrize('target', [0, 1])
def test_f1_in_figures(q, target):
    x = grid()
    p = 1 / (1 + np.exp(-x.numpy()))
    expected = (1 - (p if target else 1 - p) ** q) / q
    assert mask_gce(x, torch.full_like(x, target), q).numpy() == pytest.approx(expected, abs=1e-12)
    two = torch.stack([torch.zeros_like(x), x], 1)  # a softmax over two is a sigmoid of the difference
    assert class_gce(two, torch.full((len(x),), target), q).numpy() == pytest.approx(expected, abs=1e-12)


def test_figures_by_hand():
    logit = torch.tensor([0.0], dtype=torch.float64)  # p = 0.5
    assert mask_gce(logit, torch.ones(1), 0.5).item() == pytest.approx((1 - 0.5**0.5) / 0.5)
    assert mask_gce(logit, torch.ones(1), 1).item() == 0.5
    assert GCELoss().q == 0.7


@pytest.mark.parametrize('target', [0.0, 0.3, 1.0])
def test_towards_zero_it_is_binary_cross_entropy_and_so_is_its_gradient(target):
    targets = torch.full_like(grid(), target)
    ours = with_gradient(grid(), lambda x: mask_gce(x, targets, LIMIT['q']))
    stock = with_gradient(grid(), lambda x: F.binary_cross_entropy_with_logits(x, targets, reduction='none'))
    for mine, theirs in zip(ours, stock, strict=True):
        torch.testing.assert_close(mine, theirs, atol=LIMIT['atol'], rtol=0)


def test_gradient_is_that_of_cross_entropy_times_p_to_the_q():
    x, targets, q = grid(), (torch.arange(401) % 2).double(), 0.7
    _, ours = with_gradient(x, lambda x: mask_gce(x, targets, q))
    _, stock = with_gradient(x, lambda x: F.binary_cross_entropy_with_logits(x, targets, reduction='none'))
    p = torch.where(targets > 0, x, -x).sigmoid()
    torch.testing.assert_close(ours, stock * p**q, atol=1e-12, rtol=1e-9)


@given(logits_to_1e4, exponents, st.sampled_from(TYPES), st.data())
@settings(deadline=None, max_examples=60)
def test_value_and_gradient_are_finite_at_any_logit(values, q, dtype, data):
    x = torch.tensor(values, dtype=dtype)
    targets = torch.tensor(data.draw(st.lists(st.floats(0, 1), min_size=len(x), max_size=len(x))))
    label = torch.tensor([data.draw(st.integers(0, len(x) - 1))])
    forms = [lambda x: mask_gce(x, targets, q), lambda x: class_gce(x[None], label, q)]
    for value, gradient in (with_gradient(x, form) for form in forms):
        assert torch.isfinite(value).all()
        assert (value >= 0).all()
        assert gradient.dtype == dtype
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize('dtype', TYPES)
def test_ends_of_the_range_are_right_and_not_only_finite(dtype):
    x = torch.tensor([-1e4, 1e4, -1e4, 1e4], dtype=dtype)
    targets = torch.tensor([0.0, 0, 1, 1])
    value, gradient = with_gradient(x, lambda x: mask_gce(x, targets, 0.7))
    assert value.tolist() == pytest.approx([0, 1 / 0.7, 1 / 0.7, 0])  # bounded where cross-entropy has 10 000
    assert gradient.tolist() == [0, 0, 0, 0]
    value, gradient = with_gradient(x, lambda x: mask_gce(x, targets, 1e-8))
    cross_entropy = [0, float(x[1]), float(x[1]), 0]
    assert value.tolist() == pytest.approx(cross_entropy, rel=1e-4)
    assert gradient.tolist() == pytest.approx([0, 1, -1, 0], abs=1e-3)


@pytest.mark.parametrize('q', [1e-300, 1e-45, 1e-20, 1e-10])
def test_however_small_q_is_float32_has_cross_entropy(q):
    x = grid().float()
    value, gradient = with_gradient(x, lambda x: mask_gce(x, torch.ones_like(x), q))
    stock = with_gradient(x, lambda x: F.binary_cross_entropy_with_logits(x, torch.ones_like(x), reduction='none'))
    torch.testing.assert_close(value, stock[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient, stock[1], atol=1e-5, rtol=1e-5)


def test_gradients_agree_with_differences():
    x, targets = drawn(3, 4).requires_grad_(), torch.rand(3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: mask_gce(x, targets, 0.7), x)
    assert torch.autograd.gradcheck(lambda x: class_gce(x, torch.tensor([0, 3, 1]), 0.7), x)


# ---- targets between 0 and 1


def test_a_target_of_zero_or_one_is_exact():
    x = drawn(50, scale=20).float()
    targets = (torch.arange(50) % 2).float()
    one_sided = generalized(F.logsigmoid(torch.where(targets > 0, x, -x)), 0.7)
    assert torch.equal(mask_gce(x, targets, 0.7), one_sided)
    assert torch.equal(mask_gce(x, targets.bool(), 0.7), one_sided)


@given(st.floats(-20, 20), st.floats(0, 1), exponents)
@settings(deadline=None)
def test_between_them_both_sides_count_by_their_share(logit, target, q):
    x = torch.tensor([logit], dtype=torch.float64)
    sides = [mask_gce(x, torch.tensor([side]), q).item() for side in (0.0, 1.0)]
    found = mask_gce(x, torch.tensor([target], dtype=torch.float64), q).item()
    assert found == pytest.approx((1 - target) * sides[0] + target * sides[1], abs=1e-12)


# ---- the same as mmdet's loss in all that is not the formula

CALLS = [
    {},
    {'weight': True},
    {'avg_factor': 3.0},
    {'avg_factor': 3.0, 'weight': True},
    {'avg_factor': 0.0},
    {'reduction_override': 'none'},
    {'reduction_override': 'sum', 'weight': True},
    {'reduction_override': 'none', 'avg_factor': 3.0},
    {'ignore_index': 1},
]
BUILT = [{}, {'class_weight': [0.2, 3.0, 1.0, 0.5]}, {'loss_weight': 2.5}, {'reduction': 'sum'}, {'reduction': 'none'}]


@pytest.mark.parametrize('built', BUILT, ids=str)
@pytest.mark.parametrize('call', CALLS, ids=str)
def test_classification_is_weighted_and_reduced_as_in_mmdet(built, call):
    call = dict(call)
    labels = torch.tensor([0, 1, 3, 2, 1, 0])
    if call.get('weight'):
        call['weight'] = torch.tensor([1.0, 0, 1, 0.5, 2, 1])
    if 'avg_factor' in call and built.get('reduction') == 'sum' and 'reduction_override' not in call:
        with pytest.raises(ValueError, match='avg_factor can not be used'):
            GCELoss(use_mask=False, **built)(drawn(6, 4), labels, **call)
        return
    ours = with_gradient(drawn(6, 4), lambda x: GCELoss(q=LIMIT['q'], use_mask=False, **built)(x, labels, **call))
    stock = with_gradient(drawn(6, 4), lambda x: CrossEntropyLoss(**built)(x, labels, **call))
    for mine, theirs in zip(ours, stock, strict=True):
        # an avg_factor of 0 divides by the smallest step of float32, as mmdet does
        torch.testing.assert_close(mine, theirs, atol=3e-5, rtol=2e-6 if call.get('avg_factor') == 0 else 0)


def test_ignored_labels_of_a_semantic_map_as_in_mmdet():
    scores, labels = drawn(2, 3, 5, 4), torch.randint(0, 3, (2, 5, 4), generator=torch.Generator().manual_seed(0))
    labels[0, :2] = 255
    built = {'ignore_index': 255, 'class_weight': [1.0, 2.0, 3.0]}
    ours = with_gradient(scores, lambda x: GCELoss(q=LIMIT['q'], use_mask=False, **built)(x, labels))
    with pytest.warns(UserWarning, match='avg_non_ignore'):
        theirs = CrossEntropyLoss(**built)
    stock = with_gradient(scores, lambda x: theirs(x, labels))
    for mine, other in zip(ours, stock, strict=True):
        torch.testing.assert_close(mine, other, atol=5e-6, rtol=0)
    assert (ours[1][0, :, :2] == 0).all()


@pytest.mark.parametrize('shape', [(28, 28), (196,), (1, 5)])
def test_masks_and_points_as_in_mmdet(shape):
    scores, labels = drawn(5, 3, *shape), torch.tensor([0, 2, 1, 1, 0])
    masks = torch.rand(5, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    # not of mmdet's loss: its mask form squeezes a mask of one row to another shape, and then cannot compare it
    expected = F.binary_cross_entropy_with_logits(scores[range(5), labels], masks)
    assert GCELoss(q=LIMIT['q'])(scores, masks, labels).item() == pytest.approx(expected.item(), abs=1e-6)
    if shape[0] > 1:
        stock = CrossEntropyLoss(use_mask=True)(scores, masks, labels)
        assert stock.item() == pytest.approx(expected.item(), abs=1e-12)


def test_masks_are_reduced_and_weighted_by_class():
    scores, labels = drawn(4, 3, 6, 6), torch.tensor([0, 2, 1, 0])
    masks = (drawn(4, 6, 6, seed=1) > 0).double()
    each = GCELoss(reduction='none')(scores, masks, labels)
    assert each.shape == (4, 6, 6)
    assert torch.equal(each, mask_gce(scores[range(4), labels], masks, 0.7))
    loss = GCELoss(loss_weight=2.0)
    assert loss(scores, masks, labels).item() == pytest.approx(2 * each.mean().item())
    assert loss(scores, masks, labels, reduction_override='sum').item() == pytest.approx(2 * each.sum().item())
    assert loss(scores, masks, labels, avg_factor=10).item() == pytest.approx(2 * each.sum().item() / 10)
    weighted = GCELoss(class_weight=[1.0, 0.0, 5.0])(scores, masks, labels)
    share = torch.tensor([1.0, 5.0, 0.0, 1.0])[:, None, None]
    assert weighted.item() == pytest.approx((each * share).mean().item())
    uneven = GCELoss(class_weight=[1.0, 0.0, 5.0], reduction='none')(drawn(4, 3, 9), drawn(4, 9, seed=2) > 0, labels)
    assert (uneven[2] == 0).all()
    assert (uneven[[0, 1, 3]] > 0).all()


def test_half_precision_is_summed_in_float32():
    # 512 masks of 28 x 28 at 1 / 0.7 each are 570 000; float16 ends at 65 504
    scores = torch.full((512, 1, 28, 28), -1e4, dtype=torch.float16, requires_grad=True)
    loss = GCELoss(reduction='sum')(scores, torch.ones(512, 28, 28), torch.zeros(512, dtype=torch.long))
    assert loss.item() == pytest.approx(512 * 784 / 0.7, rel=1e-4)


@pytest.mark.parametrize('reduction', ['mean', 'sum', 'none'])
def test_nothing_to_learn_from_is_zero_with_a_gradient(reduction):
    for loss, scores, truth, third in (
        (GCELoss(reduction=reduction), torch.zeros(0, 3, 28, 28), torch.zeros(0, 28, 28), torch.zeros(0, dtype=torch.long)),
        (GCELoss(use_mask=False, reduction=reduction), torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), None),
    ):
        value, gradient = with_gradient(scores, lambda x, loss=loss, truth=truth, third=third: loss(x, truth, third))
        assert value.sum() == 0
        assert gradient.shape == scores.shape


def test_it_stays_on_the_tensors_device():
    labels = torch.zeros(4, dtype=torch.long, device='meta')
    scores, targets = torch.zeros(4, 2, 5, 5, device='meta'), torch.zeros(4, 5, 5, device='meta')
    masks = GCELoss(class_weight=[1.0, 2.0])(scores, targets, labels)
    classes = GCELoss(use_mask=False, class_weight=[1.0, 2.0])(scores[..., 0, 0], labels)
    assert masks.is_meta
    assert classes.is_meta


# ---- in mmdet's heads


def box_head(**loss):
    init_default_scope('mmdet')
    cfg = {'type': 'Shared2FCBBoxHead', 'in_channels': 4, 'fc_out_channels': 8, 'roi_feat_size': 2, 'num_classes': 3}
    return MODELS.build({**cfg, 'type': 'mmdet.Shared2FCBBoxHead', 'loss_cls': loss})


def test_box_head_is_the_stock_one():
    scores, labels = drawn(6, 4).float(), torch.tensor([0, 3, 3, 1, 2, 3])
    weights = torch.tensor([1.0, 1, 0, 1, 1, 1])
    found = {}
    for name, loss in {
        'stock': {'type': 'CrossEntropyLoss', 'loss_weight': 0.5},
        'ours': {'type': 'mmext.GCELoss', 'q': 1e-8, 'use_mask': False, 'loss_weight': 0.5},
    }.items():
        head = box_head(**loss)
        assert head.fc_cls.out_features == 4
        deltas = torch.zeros(6, 12, requires_grad=True)
        found[name] = head.loss(scores, deltas, torch.zeros(6, 5), labels, weights, torch.ones(6, 4), torch.ones(6, 4))
    assert found['ours'].keys() == found['stock'].keys()
    for key in found['stock']:
        assert found['ours'][key].tolist() == pytest.approx(found['stock'][key].tolist(), abs=1e-5)


@pytest.mark.parametrize('class_agnostic', [False, True])
def test_point_head_is_the_stock_one(class_agnostic):
    from mmdet.models.task_modules.assigners import AssignResult
    from mmdet.models.task_modules.samplers import SamplingResult
    from mmdet.structures.mask import BitmapMasks
    from mmengine.config import ConfigDict

    init_default_scope('mmdet')
    boxes = torch.tensor([[2.0, 3, 20, 25], [5, 5, 30, 31]])
    assigned = AssignResult(2, torch.tensor([1, 2]), torch.ones(2), torch.tensor([2, 0]))
    bitmaps = BitmapMasks((np.indices((40, 40)).sum(0)[None] % 7 < [[[3]], [[5]]]).astype(np.uint8), 40, 40)
    truth = InstanceData(bboxes=boxes, labels=torch.tensor([2, 0]), masks=bitmaps)
    cfg = ConfigDict(num_points=9)
    found = {}
    for kept in (2, 0):
        sampled = SamplingResult(
            torch.arange(kept), torch.arange(0), boxes, boxes, assigned, torch.ones(2, dtype=torch.uint8)
        )
        points = torch.rand(kept, 9, 2, generator=torch.Generator().manual_seed(0))
        for name, loss in {
            'stock': {'type': 'CrossEntropyLoss', 'use_mask': True},
            'ours': {'type': 'mmext.GCELoss', 'q': 1e-8},
        }.items():
            head = MODELS.build(
                {
                    'type': 'mmdet.MaskPointHead',
                    'num_classes': 3,
                    'in_channels': 4,
                    'class_agnostic': class_agnostic,
                    'loss_point': loss,
                }
            )
            scores = drawn(kept, 1 if class_agnostic else 3, 9).float().requires_grad_()
            targets = head.loss_and_target(scores, points, [sampled], [truth], cfg)
            found[name, kept] = targets['loss_point']
            if kept:
                assert ((targets['point_target'] > 0) & (targets['point_target'] < 1)).any()  # soft: sampled between pixels
    assert found['ours', 2].item() == pytest.approx(found['stock', 2].item(), abs=1e-5)
    assert torch.isnan(found['stock', 0]).all()  # PointRend of mmdet does not survive a batch without a positive RoI
    assert found['ours', 0] == 0


# ---- what is refused


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'q': 0}, r'GCELoss: q is 0; it must be above 0 \(cross-entropy\) and at most 1 \(1 - p\)'),
        ({'q': 1.1}, 'GCELoss: q is 1.1; '),
        ({'q': float('nan')}, 'GCELoss: q is nan; '),
        ({'q': True}, 'GCELoss: q is True; '),
        ({'q': '0.7'}, "GCELoss: q is '0.7'; "),
        ({'reduction': 'avg'}, "GCELoss: reduction is 'avg'; allowed: none, mean, sum"),
        ({'loss_weight': -1}, 'GCELoss: loss_weight is -1; it must be a number, 0 or more'),
        ({'loss_weight': None}, 'GCELoss: loss_weight is None; '),
        ({'class_weight': 2.0}, 'GCELoss: class_weight is 2.0; it must be None or a list of numbers, 0 or more'),
        ({'class_weight': [1, -2]}, r'GCELoss: class_weight is \[1, -2\]; '),
        ({'ignore_index': 255}, 'GCELoss: ignore_index is 255; a mask has no label to ignore. Set use_mask=False'),
        ({'q': 2, 'reduction': 'x'}, r"(?s)several mistakes:.*reduction is 'x'.*q is 2"),
    ],
    ids=str,
)
def test_wrong_arguments(changes, words):
    with pytest.raises(InputError, match=words):
        GCELoss(**changes)


def test_the_form_of_the_other_kind_of_head_is_an_error():
    scores, weights = torch.zeros(4, 3), torch.ones(4)
    with pytest.raises(InputError, match=r'the class of each RoI .* given torch.float32 \(4,\). .* set use_mask=False'):
        GCELoss()(scores, torch.zeros(4, dtype=torch.long), weights)
    with pytest.raises(InputError, match='third argument, given None'):
        GCELoss()(torch.zeros(4, 3, 5, 5), torch.zeros(4, 5, 5))
    with pytest.raises(InputError, match=r'classes as labels, given torch.float32 \(4, 5, 5\). .* set use_mask=True'):
        GCELoss(use_mask=False)(torch.zeros(4, 3, 5, 5), torch.zeros(4, 5, 5), torch.zeros(4, dtype=torch.long))


def test_wrong_calls():
    scores, masks, labels = torch.zeros(4, 3, 5, 5), torch.zeros(4, 5, 5), torch.zeros(4, dtype=torch.long)
    with pytest.raises(InputError, match="reduction_override is 'avg'; allowed: None, none, mean, sum"):
        GCELoss()(scores, masks, labels, reduction_override='avg')
    with pytest.raises(InputError, match='ignore_index is 1; a mask has no label to ignore'):
        GCELoss()(scores, masks, labels, ignore_index=1)
    with pytest.raises(InputError, match='class_weight has 2 values, the prediction 3 channels'):
        GCELoss(class_weight=[1, 2])(scores, masks, labels)
    with pytest.raises(IndexError):  # never some RoIs of several in silence
        GCELoss()(scores, masks, labels[:3])
