import copy

import pytest
import torch
from mmdet.models.dense_heads import RPNHead
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

import mmext
from mmext.errors import InputError
from mmext.heads import MinSizeRPNHead
from mmext.heads.min_size_rpn_head import belongs_to_small, is_small
from mmext.registry import MODELS

SIDE = 512
SMALL = [60.0, 60.0, 72.0, 72.0]  # 12 pixels
LARGE = [200.0, 200.0, 400.0, 400.0]
STRIDES = (4, 8, 16, 32, 64)
# its centre on the finest map
AT_SMALL = (16, 16)


def head(kind='mmext.MinSizeRPNHead', **changes):
    """The RPN of the base recipe with all anchors sampled, so that what is left out is not a matter of chance."""
    init_default_scope('mmdet')
    model = Config.fromfile(mmext.recipe('mask-rcnn_r50_fpn_finetune')).model
    cfg = copy.deepcopy(model.rpn_head)
    cfg.update(type=kind, in_channels=4, feat_channels=4, train_cfg=copy.deepcopy(model.train_cfg.rpn), **changes)
    cfg.train_cfg.sampler.num = 10**6
    return MODELS.build(cfg)


def maps(seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = [SIDE // stride for stride in STRIDES]
    scores = [torch.randn(1, 3, size, size, generator=generator).requires_grad_() for size in sizes]
    deltas = [(torch.randn(1, 12, size, size, generator=generator) * 0.1).requires_grad_() for size in sizes]
    return scores, deltas


def losses(rpn, scores, deltas, boxes=(SMALL, LARGE)):
    boxes = torch.tensor(boxes).reshape(-1, 4)
    truth = InstanceData(bboxes=boxes, labels=torch.zeros(len(boxes), dtype=torch.long))
    meta = {'img_shape': (SIDE, SIDE), 'pad_shape': (SIDE, SIDE), 'scale_factor': (1, 1)}
    torch.manual_seed(0)
    return rpn.loss_by_feat(scores, deltas, [truth], [meta])


def total(found):
    return sum(value.sum() for values in found.values() for value in values)


def gradients(rpn, **arguments):
    scores, deltas = maps()
    total(losses(rpn, scores, deltas, **arguments)).backward()
    return [score.grad for score in scores], [delta.grad for delta in deltas]


def test_gradient_is_none_at_the_small_object_and_unchanged_at_the_large_one():
    stock, ours = gradients(head('mmdet.RPNHead')), gradients(head(min_size=20))
    y, x = AT_SMALL
    assert (stock[0][0][0, :, y, x] != 0).all()
    assert (ours[0][0][0, :, y, x] == 0).all()
    for theirs, mine in zip(stock[0] + stock[1], ours[0] + ours[1], strict=True):
        untouched = torch.ones_like(mine, dtype=torch.bool)
        size = mine.shape[-1]
        cells = [round(edge * size / SIDE) for edge in (SMALL[0], SMALL[2])]
        untouched[..., max(cells[0] - 1, 0) : cells[1] + 2, max(cells[0] - 1, 0) : cells[1] + 2] = False
        assert torch.equal(mine[untouched], theirs[untouched])
    at_large = 300 // STRIDES[3]
    assert ours[0][3][0, :, at_large, at_large].abs().max() > 0
    for delta in ours[1]:  # no box is learnt for the small one on any level
        first, last = (int(edge * delta.shape[-1] / SIDE) for edge in (SMALL[0], SMALL[2]))
        assert (delta[:, :, first : last + 1, first : last + 1] == 0).all()


def test_anchor_of_a_large_object_is_kept_where_a_small_one_lies_within():
    inside = [290.0, 290.0, 302.0, 302.0]
    stock, ours = (gradients(head(**kind), boxes=(inside, LARGE)) for kind in ({'kind': 'mmdet.RPNHead'}, {'min_size': 20}))
    claimed = [delta != 0 for delta in stock[1][2:]]  # strides 16 up: assigned to the large one, as the small one fits none
    assert sum(int(where.sum()) for where in claimed)
    for where, theirs, mine in zip(claimed, stock[1][2:], ours[1][2:], strict=True):
        assert torch.equal(theirs[where], mine[where])


@pytest.mark.parametrize('filter_by', ['gt', 'proposal'])
def test_no_least_size_is_stock_to_the_bit(filter_by):
    stock, ours = gradients(head('mmdet.RPNHead')), gradients(head(min_size=0, filter_by=filter_by))
    assert all(torch.equal(a, b) for kind in (0, 1) for a, b in zip(stock[kind], ours[kind], strict=True))


@pytest.mark.parametrize('boxes', [(), (SMALL,), (LARGE,)])
def test_any_number_of_objects(boxes):
    found = losses(head(min_size=20), *maps(), boxes=boxes)
    assert all(torch.isfinite(value).all() for values in found.values() for value in values)


def test_nothing_small_is_stock_to_the_bit():
    stock, ours = (losses(rpn, *maps(), boxes=(LARGE,)) for rpn in (head('mmdet.RPNHead'), head(min_size=20)))
    assert all(torch.equal(a, b) for name in stock for a, b in zip(stock[name], ours[name], strict=True))


def test_a_shrinking_prediction_lowers_the_loss_that_goes_by_proposals_and_not_ours():
    """S1's flaw: whoever predicts small boxes is asked for nothing."""
    found = {}
    for filter_by in ('proposal', 'gt'):
        rpn = head(min_size=20, filter_by=filter_by)
        found[filter_by] = []
        for shrink in (0.0, -1.0, -4.0):  # log of the predicted size over the anchor's
            scores, deltas = maps()
            with torch.no_grad():
                for delta in deltas:
                    delta.zero_()
                    delta.view(1, 3, 4, *delta.shape[2:])[:, :, 2:] = shrink
            found[filter_by].append(total(losses(rpn, scores, deltas, boxes=(LARGE,))).item())
    assert found['proposal'][0] > found['proposal'][1] > found['proposal'][2]
    assert found['gt'][0] < found['gt'][1] < found['gt'][2]


def test_small_and_about_small_in_figures():
    boxes = torch.tensor([[0.0, 0, 20, 20], [0, 0, 19.9, 300], [0, 0, 0, 0]])
    assert is_small(boxes, 20).tolist() == [False, True, True]
    truth = torch.tensor([[100.0, 100, 110, 110], [0, 0, 400, 400]])
    anchors = torch.tensor(
        [
            [85.0, 85, 125, 125],  # about the small one, 16 times its area
            [84, 84, 126, 126],  # larger than that
            [110, 110, 140, 140],  # its centre lies elsewhere
            [300, 300, 315, 340],  # small itself
        ]
    )
    assert belongs_to_small(anchors, truth, 20, 4, 0).tolist() == [True, False, False, True]
    # the second is one of the smallest that there are
    assert belongs_to_small(anchors, truth, 20, 4, 42 * 42).tolist() == [True, True, False, True]


@pytest.mark.parametrize('side', [1, 3, 5, 7, 8, 12])
def test_no_background_is_learnt_at_an_object_of_any_size(side):
    """Whatever its place on the grid of anchors, those of the finest level nearest to it have no gradient."""
    for offset in range(0, 8, 3):
        at = 60.0 + offset
        stock, ours = (
            gradients(head(**kind), boxes=([at, at, at + side, at + side], LARGE))
            for kind in ({'kind': 'mmdet.RPNHead'}, {'min_size': 20})
        )
        cell = round((at + side / 2) / STRIDES[0])
        assert (ours[0][0][0, :, cell, cell] == 0).all()
        assert (stock[0][0][0, :, cell, cell] != 0).all()


def test_predictions_are_stocks():
    assert MinSizeRPNHead.predict is RPNHead.predict
    assert MinSizeRPNHead.predict_by_feat is RPNHead.predict_by_feat


@pytest.mark.parametrize('changes', [{'min_size': -1}, {'min_size': '20'}, {'filter_by': 'box'}])
def test_wrong_arguments(changes):
    name, value = next(iter(changes.items()))
    with pytest.raises(InputError, match=f'MinSizeRPNHead: {name} is {value!r}; '):
        MinSizeRPNHead(in_channels=4, **changes)
