import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models.dense_heads import RPNHead
from mmdet.models.task_modules import AnchorGenerator
from mmdet.models.task_modules import MaxIoUAssigner as StockMaxIoUAssigner
from mmdet.registry import TASK_UTILS
from mmdet.structures.bbox import HorizontalBoxes, bbox_overlaps
from mmengine.structures import InstanceData

from mmext.assigners import MaxIoUAssigner, max_iou_assigner
from mmext.assigners.max_iou_assigner import in_blocks, is_worth_it, touching_overlaps

STRIDES = (4, 8, 16, 32, 64)
RPN = {'pos_iou_thr': 0.7, 'neg_iou_thr': 0.3, 'min_pos_iou': 0.3}
SIZES = st.sampled_from([(64, 64), (96, 160), (200, 136)])


def fpn_anchors(height, width):
    """All anchors of Mask R-CNN R50-FPN for one image, level by level."""
    generator = AnchorGenerator(strides=list(STRIDES), ratios=[0.5, 1.0, 2.0], scales=[8])
    return torch.cat(generator.grid_priors([(-(-height // s), -(-width // s)) for s in STRIDES], device='cpu'))


@st.composite
def boxes(draw, anchors, most=8):
    """Random boxes, boxes on whole numbers, anchors, one box twice, boxes without area, off the image, of negative size."""
    rng = torch.Generator().manual_seed(draw(st.integers(0, 99999)))
    number = draw(st.integers(0, most))
    corners = torch.rand(number, 2, generator=rng) * anchors.max()
    found = torch.cat([corners, corners + torch.rand(number, 2, generator=rng) * 90], 1)
    for i in range(number):
        kind = draw(st.sampled_from(['random', 'whole', 'anchor', 'again', 'flat', 'point', 'away', 'turned']))
        if kind == 'whole':
            found[i] = found[i].round()
        elif kind == 'anchor':
            found[i] = anchors[torch.randint(len(anchors), (1,), generator=rng)]
        elif kind == 'again':
            found[i] = found[torch.randint(number, (1,), generator=rng)]
        elif kind == 'flat':
            found[i, 2] = found[i, 0]
        elif kind == 'point':
            found[i, 2:] = found[i, :2]
        elif kind == 'away':
            found[i] += 1e5
        elif kind == 'turned':
            found[i] = found[i].roll(2)
    return found


def instances(found):
    return InstanceData(bboxes=found, labels=torch.arange(len(found), device=found.device) % 3)


def same(ours, stock):
    assert ours.num_gts == stock.num_gts
    for name in ('gt_inds', 'max_overlaps', 'labels'):
        found, wanted = getattr(ours, name), getattr(stock, name)
        assert found.dtype == wanted.dtype, name
        assert torch.equal(found, wanted), name


def check(priors, truth, regions=None, **arguments):
    """Our assignment after it was held against MMDetection's."""
    ignore = None if regions is None else InstanceData(bboxes=regions)
    given_data = [(InstanceData(priors=priors.clone()), instances(truth.clone()), ignore) for _ in range(2)]
    ours = MaxIoUAssigner(**RPN | arguments).assign(*given_data[0])
    same(ours, StockMaxIoUAssigner(**RPN | arguments).assign(*given_data[1]))
    return ours


THRESHOLDS = st.fixed_dictionaries(
    {
        'pos_iou_thr': st.sampled_from([0.05, 0.5, 0.7, 1.0]),
        'neg_iou_thr': st.sampled_from([0.3, 0.5, 1.0, 0, (0.1, 0.4), (-1.0, 0.3)]),
        'min_pos_iou': st.sampled_from([0.0, 0, 0.3, 0.5]),
        'gt_max_assign_all': st.booleans(),
        'match_low_quality': st.booleans(),
        'ignore_iof_thr': st.sampled_from([-1, 0.2, 0.5]),
        'ignore_wrt_candidates': st.booleans(),
    }
)


@given(st.data(), SIZES, THRESHOLDS)
@settings(deadline=None, max_examples=150)
def test_the_result_is_stocks(data, size, thresholds):
    anchors = fpn_anchors(*size)
    regions = data.draw(st.none() | boxes(anchors, most=4))
    check(anchors, data.draw(boxes(anchors)), regions, **thresholds)


@given(st.data(), THRESHOLDS)
@settings(deadline=None, max_examples=100)
def test_priors_in_any_order_and_number(data, thresholds):
    anchors = fpn_anchors(64, 64)
    order = torch.randperm(len(anchors), generator=torch.Generator().manual_seed(data.draw(st.integers(0, 999))))
    priors = anchors[order[: data.draw(st.integers(0, 150))]]
    # objects and the priors of the coarse grid in turns: many ties
    truth = data.draw(boxes(anchors, most=4))
    check(priors, truth, **thresholds)
    check(torch.cat([priors, priors, truth]), truth, **thresholds)
    check((priors / 16).round() * 16, (truth / 16).round() * 16, **thresholds)


def test_the_first_of_equal_objects_is_above_the_threshold_and_the_last_below_it():
    prior = torch.tensor([[0.0, 0, 10, 10]])
    twice = torch.tensor([[0.0, 0, 10, 8], [0, 0, 10, 8]])
    assert check(prior, twice, match_low_quality=False).gt_inds.tolist() == [1]
    assert check(prior, twice).gt_inds.tolist() == [2]
    assert check(prior, twice, min_pos_iou=0.9).gt_inds.tolist() == [1]


def test_all_priors_that_tie_are_an_objects_or_the_first():
    priors = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 10, 10]])
    truth = torch.tensor([[0.0, 0, 10, 5]])
    assert check(priors, truth).gt_inds.tolist() == [1, 0, 1]
    assert check(priors, truth, gt_max_assign_all=False).gt_inds.tolist() == [1, 0, -1]


def test_an_object_that_overlaps_nothing_takes_all_that_overlap_nothing_when_no_least_iou_is_set():
    priors = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50]])
    truth = torch.tensor([[0.0, 0, 10, 10], [500, 500, 510, 510], [700, 700, 700, 710], [20, 20, 30, 28]])
    assert check(priors, truth, min_pos_iou=0.0).gt_inds.tolist() == [3, 4, 3]
    assert check(priors, truth, min_pos_iou=0.0, gt_max_assign_all=False).gt_inds.tolist() == [3, 4, 0]
    assert check(priors, truth).gt_inds.tolist() == [1, 4, 0]


@pytest.mark.parametrize('over_prior', [True, False])
def test_ignore_regions(over_prior):
    anchors = fpn_anchors(96, 96)
    truth = torch.tensor([[10.0, 10, 50, 50], [60, 60, 90, 90]])
    region = torch.tensor([[0.0, 0, 55, 55]])
    found = check(anchors, truth, region, ignore_iof_thr=0.5, ignore_wrt_candidates=over_prior)
    assert 0 < (found.max_overlaps == -1).sum() < len(anchors)
    everything = torch.tensor([[-1000.0, -1000, 1000, 1000]])
    for least in (0.0, 0.3):
        found = check(anchors, truth, everything, ignore_iof_thr=0.5, min_pos_iou=least)
        assert found.gt_inds.unique().tolist() == [-1]


@pytest.mark.parametrize(('priors', 'truth'), [(0, 0), (0, 2), (5, 0)])
def test_empty_inputs(priors, truth):
    box = torch.tensor([[0.0, 0, 10, 10]])
    check(box.repeat(priors, 1), box.repeat(truth, 1))


def test_no_matrix_at_full_size(monkeypatch):
    """The anchors of an image of 800 x 1088 against 30 objects, and MMDetection's own way is closed."""
    anchors = fpn_anchors(800, 1088)
    rng = torch.Generator().manual_seed(0)
    corners = torch.rand(30, 2, generator=rng) * torch.tensor([1000.0, 700.0])
    truth = torch.cat([corners, corners + 20 + torch.rand(30, 2, generator=rng) * 100], 1)
    stock = StockMaxIoUAssigner(**RPN).assign(InstanceData(priors=anchors), instances(truth))
    monkeypatch.setattr(StockMaxIoUAssigner, 'assign', None)
    ours = MaxIoUAssigner(**RPN).assign(InstanceData(priors=anchors), instances(truth))
    same(ours, stock)
    assert (ours.gt_inds > 0).sum() >= 30
    computed = sum(overlaps.numel() for *_, overlaps in touching_overlaps(truth, in_blocks(anchors)))
    assert computed < len(truth) * len(anchors) / 15


def many_objects(number, height, width):
    """Objects of 8 to 60 pixels, every third one twice."""
    rng = torch.Generator().manual_seed(number)
    corners = torch.rand(number, 2, generator=rng) * torch.tensor([width - 60.0, height - 60.0])
    found = torch.cat([corners, corners + 8 + torch.rand(number, 2, generator=rng) * 52], 1)
    found[2::3] = found[: len(found[2::3])]
    return found


@pytest.mark.parametrize(('compared', 'pairs'), [(1, 2048), (2000, 1), (2**22, 7)])
def test_pieces_of_any_size_give_the_same(monkeypatch, compared, pairs):
    anchors, truth = fpn_anchors(200, 136), many_objects(60, 200, 136)
    regions = torch.tensor([[0.0, 0, 30, 30], [100, 20, 130, 180]])
    monkeypatch.setattr(max_iou_assigner, '_COMPARED', compared)
    monkeypatch.setattr(max_iou_assigner, '_PAIRS', pairs)
    assert max(len(box) for box, *_ in touching_overlaps(truth, in_blocks(anchors))) <= pairs
    check(anchors, truth, regions, ignore_iof_thr=0.5)
    check(anchors, truth, min_pos_iou=0.0, gt_max_assign_all=False)


def test_a_gpu_takes_mmdetections_way_for_few_objects():
    anchors = len(fpn_anchors(800, 1344))
    assert [is_worth_it('cuda', objects * anchors) for objects in (1, 60, 250)] == [False, False, True]
    assert is_worth_it('cpu', 1)
    assert not is_worth_it('mps', 250 * anchors)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
@pytest.mark.parametrize('thresholds', [{}, {'min_pos_iou': 0.0, 'gt_max_assign_all': False}])
def test_on_a_gpu_the_result_is_stocks_in_bounded_memory(thresholds):
    anchors, truth = fpn_anchors(800, 1344).cuda(), many_objects(300, 800, 1344).cuda()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    ours = MaxIoUAssigner(**RPN | thresholds).assign(InstanceData(priors=anchors), instances(truth))
    assert torch.cuda.max_memory_allocated() - held < 2**28
    same(ours, StockMaxIoUAssigner(**RPN | thresholds).assign(InstanceData(priors=anchors), instances(truth)))


MEMORY = """
import resource, torch
from mmengine.structures import InstanceData
from mmext.assigners import MaxIoUAssigner
from test_max_iou_assigner import RPN, fpn_anchors, many_objects

anchors = fpn_anchors(4096, 4096)
for number in (10, 1000):
    truth = InstanceData(bboxes=many_objects(number, 4096, 4096), labels=torch.zeros(number, dtype=torch.long))
    MaxIoUAssigner(**RPN).assign(InstanceData(priors=anchors), truth)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_follow_objects_times_image():
    """1,000 objects and the anchors of 4096 x 4096: a byte for each pair of an object and a block alone would be 131 MB."""
    command, here = [sys.executable, '-c', MEMORY], Path(__file__).parent
    done = subprocess.run(command, cwd=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    few, many = (int(line) / 1024 for line in done.stdout.split())
    assert many - few < 100  # MiB


@given(st.data(), SIZES)
@settings(deadline=None)
def test_overlaps_of_touching_blocks_are_stocks_and_others_are_0(data, size):
    anchors = fpn_anchors(*size)
    found = data.draw(boxes(anchors))
    for over, wanted in (
        ('union', bbox_overlaps(found, anchors)),
        ('box', bbox_overlaps(found, anchors, 'iof')),
        ('prior', bbox_overlaps(anchors, found, 'iof').T),
    ):
        dense = torch.zeros(len(found), -(-len(anchors) // 32), 32)
        for box, block, overlaps in touching_overlaps(found, in_blocks(anchors), over):
            dense[box, block] = overlaps
        assert torch.equal(dense.flatten(1)[:, : len(anchors)], wanted)


@pytest.mark.parametrize(
    'arguments',
    [
        {'iou_calculator': {'type': 'BboxOverlaps2D', 'dtype': 'fp16'}},
        {'iou_calculator': {'type': 'BboxOverlaps2D_GLIP'}},
        {'perm_repeat_gt_cfg': {'iou_thr': 0.7, 'perm_range': 0.01}},
        {'pos_iou_thr': 0.0},
        {'min_pos_iou': -1.0},
    ],
    ids=str,
)
def test_other_settings_go_stocks_way(arguments, monkeypatch):
    monkeypatch.setattr(max_iou_assigner, 'find_matches', None)
    check(fpn_anchors(64, 64), torch.tensor([[3.0, 4, 40, 50], [20, 20, 60, 60]]), **arguments)


@pytest.mark.parametrize('side', [float('nan'), float('inf'), 3e38])
def test_boxes_without_a_finite_area_go_stocks_way(side, monkeypatch):
    monkeypatch.setattr(max_iou_assigner, 'find_matches', None)
    anchors = fpn_anchors(64, 64)
    strange = torch.tensor([[3.0, 4, 40, 50], [20, 20, side, 60]])
    for priors, truth in ((anchors, strange), (torch.cat([anchors, strange]), strange[:1])):
        found, wanted = (
            kind(**RPN).assign(InstanceData(priors=priors), instances(truth))
            for kind in (MaxIoUAssigner, StockMaxIoUAssigner)
        )
        torch.testing.assert_close(found.max_overlaps, wanted.max_overlaps, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(found.gt_inds, wanted.gt_inds)


def test_double_precision_goes_stocks_way():
    check(fpn_anchors(64, 64).double(), torch.tensor([[3.0, 4, 40, 50]]).double())


def test_boxes_of_mmdetections_box_types():
    anchors, truth = fpn_anchors(64, 64), torch.tensor([[3.0, 4, 40, 50], [20, 20, 60, 60]])
    plain = check(anchors, truth)
    wrapped = InstanceData(bboxes=HorizontalBoxes(truth), labels=torch.arange(2))
    same(MaxIoUAssigner(**RPN).assign(InstanceData(priors=HorizontalBoxes(anchors)), wrapped), plain)


def test_the_rpns_targets_are_stocks():
    assigner = {'type': 'MaxIoUAssigner', **RPN, 'match_low_quality': True, 'ignore_iof_thr': -1}
    sampler = {'type': 'RandomSampler', 'num': 64, 'pos_fraction': 0.5, 'add_gt_as_proposals': False}
    metas = [{'img_shape': (96, 130), 'pad_shape': (96, 160)}, {'img_shape': (90, 160), 'pad_shape': (96, 160)}]
    sizes = [(-(-96 // s), -(-160 // s)) for s in STRIDES]
    truth = [
        instances(torch.tensor([[3.0, 4, 40, 50], [20, 20, 90, 60]])),
        instances(torch.tensor([[100.0, 10, 150, 90]])),
    ]
    for one in truth:
        one.labels = torch.zeros_like(one.labels)
    found = []
    for kind in ('mmext.MaxIoUAssigner', 'MaxIoUAssigner'):
        train_cfg = {'assigner': assigner | {'type': kind}, 'sampler': sampler, 'allowed_border': 0, 'pos_weight': -1}
        head = RPNHead(in_channels=4, feat_channels=4, num_classes=1, train_cfg=train_cfg)
        anchors = head.get_anchors(sizes, metas, device='cpu')
        torch.manual_seed(0)
        found.append((type(head.assigner), head.get_targets(*anchors, truth, metas)))
    (ours, targets), (stock, wanted) = found
    assert (ours, stock) == (MaxIoUAssigner, StockMaxIoUAssigner)
    assert targets[-1] == wanted[-1] > 0
    for levels, levels_wanted in zip(targets[:-1], wanted[:-1], strict=True):
        assert all(map(torch.equal, levels, levels_wanted))


def test_it_is_built_by_its_name():
    assert type(TASK_UTILS.build({'type': 'mmext.MaxIoUAssigner', **RPN})) is MaxIoUAssigner
