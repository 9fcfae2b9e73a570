import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.evaluation import CocoMetric
from mmdet.evaluation.metrics import DumpDetResults
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks, encode_mask_results
from mmengine.structures import InstanceData

from mmext.errors import InputError
from mmext.structures.rle_masks import RLEMasks

SIZE = (11, 14)


def arrays(number, seed=0, size=SIZE):
    """Masks of which the first is empty and the second whole."""
    masks = np.random.default_rng(seed).random((number, *size)) < 0.3
    masks[:1], masks[1:2] = False, True
    return masks


def rle_masks(masks):
    return RLEMasks(encode_mask_results(masks), *masks.shape[1:])


def instances(number, seed=0):
    """Detections with RLEs, and the same with MMDetection's tensor."""
    masks = arrays(number, seed)
    rest = {
        'bboxes': torch.arange(4.0 * number).reshape(-1, 4),
        'scores': torch.linspace(1, 0.1, number),
        'labels': torch.arange(number) % 2,
    }
    return InstanceData(**rest, masks=rle_masks(masks)), InstanceData(**rest, masks=torch.from_numpy(masks))


def sample(found):
    return DetDataSample(metainfo={'img_id': 3, 'ori_shape': SIZE, 'img_shape': SIZE}, pred_instances=found)


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_it_gives_the_arrays_back(data):
    size = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    masks = arrays(data.draw(st.integers(0, 5)), data.draw(st.integers(0, 99)), size)
    found = rle_masks(masks)
    assert isinstance(found, BitmapMasks)
    assert (len(found), found.shape) == (len(masks), masks.shape)
    for array in (found.masks, found.to_ndarray()):
        assert array.dtype == np.uint8
        assert np.array_equal(array, masks)
    for tensor in (found.cpu(), found.detach().cpu(), found.to_tensor(torch.bool, 'cpu')):
        assert torch.equal(tensor, torch.from_numpy(masks))
    assert found.numpy().dtype == bool
    assert np.array_equal(found.cpu().numpy(), masks)
    assert [mask.tolist() for mask in found] == masks.astype(int).tolist()
    assert found.areas.tolist() == masks.sum((1, 2)).tolist()
    assert encode_mask_results(found) == found.rles
    for again in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):
        assert (again.rles, again.shape) == (found.rles, found.shape)


INDICES = [
    slice(1, 3),
    slice(None, 0, None),
    [2, 0],
    [],
    np.array([3, 3, 1]),
    np.array([True, False, True, False]),
    torch.tensor([1, -1]),
    torch.tensor([False, True, True, False]),
    torch.tensor([], dtype=torch.long),
    torch.zeros(4, dtype=torch.bool),
]


@pytest.mark.parametrize('index', INDICES, ids=str)
def test_an_index_chooses_as_of_a_tensor(index):
    masks = arrays(4)
    chosen = rle_masks(masks)[index]
    assert type(chosen) is RLEMasks
    wanted = torch.from_numpy(masks)[index]
    assert torch.equal(chosen.cpu(), wanted)
    if not isinstance(index, list) or index:  # InstanceData makes floats of an empty list
        ours, stock = instances(4)
        assert torch.equal(ours[index].masks.cpu(), stock[index].masks)


@pytest.mark.parametrize('place', [2, -1, np.int64(1), np.array(2), torch.tensor(3)], ids=repr)
def test_one_place_is_an_rle(place):
    masks = arrays(4)
    assert rle_masks(masks)[place] == encode_mask_results(masks)[int(place)]


def test_instances_are_taken_apart_and_put_together():
    ours, stock = instances(5)
    ours_two, stock_two = instances(2, seed=1)
    for found, expected in (
        (ours[ours.scores > 0.5], stock[stock.scores > 0.5]),
        (ours[1], stock[1]),
        (ours[ours.scores.sort().indices], stock[stock.scores.sort().indices]),
        (InstanceData.cat([ours, ours_two]), InstanceData.cat([stock, stock_two])),
    ):
        assert type(found.masks) is RLEMasks
        assert torch.equal(found.masks.cpu(), expected.masks)
        assert torch.equal(found.labels, expected.labels)
    for same in (ours.cpu(), ours.detach(), ours.to('cpu'), ours.numpy(), ours.clone()):
        assert same.masks.rles == ours.masks.rles


def test_what_changes_masks_gives_bitmaps():
    masks = arrays(3)
    found, bitmaps = rle_masks(masks), BitmapMasks(masks.astype(np.uint8), *SIZE)
    for changed, expected in (
        (found.resize((22, 28)), bitmaps.resize((22, 28))),
        (found.flip('vertical'), bitmaps.flip('vertical')),
        (found.pad((20, 20)), bitmaps.pad((20, 20))),
        (found.crop(np.array([2, 3, 9, 8])), bitmaps.crop(np.array([2, 3, 9, 8]))),
    ):
        assert type(changed) is BitmapMasks
        assert np.array_equal(changed.masks, expected.masks)
    assert torch.equal(found.get_bboxes('hbox').tensor, bitmaps.get_bboxes('hbox').tensor)


@pytest.mark.parametrize('number', [0, 4])
def test_stock_metric_finds_the_same(number, tmp_path):
    entries = []
    for found in instances(number):
        metric = CocoMetric(metric='segm', format_only=True, outfile_prefix=str(tmp_path / 'out'))
        metric.dataset_meta, metric.cat_ids = {'classes': ('a', 'b')}, [1, 2]
        metric.process({}, [{**sample(found).to_dict(), 'instances': []}])
        entries.append(metric.results2json([result for _, result in metric.results], str(tmp_path / 'out')))
        entries[-1] = (tmp_path / 'out.segm.json').read_text()
    assert entries[0] == entries[1]
    assert entries[0].count('counts') == number


@pytest.mark.parametrize('number', [0, 4])
def test_stock_dump_has_the_same(number, tmp_path):
    dumped = []
    for found in instances(number):
        metric = DumpDetResults(str(tmp_path / 'out.pkl'))
        metric.process({}, [sample(found).to_dict()])
        dumped.append(metric.results[0]['pred_instances']['masks'])
    assert dumped[0] == dumped[1]


@pytest.mark.parametrize('number', [0, 4])
def test_stock_inferencer_and_visualizer_find_the_same(number):
    from mmdet.apis import DetInferencer
    from mmdet.visualization import DetLocalVisualizer

    answers, images = [], []
    for found in instances(number):
        answers.append(DetInferencer.pred2dict(None, sample(found)))
        drawn = DetLocalVisualizer(alpha=0.5)
        drawn.dataset_meta = {'classes': ('a', 'b'), 'palette': [(0, 90, 200), (250, 9, 60)]}
        np.random.seed(0)  # it jitters colours
        drawn.add_datasample('x', np.zeros((*SIZE, 3), np.uint8), sample(found), draw_gt=False)
        images.append(drawn.get_image())
    assert answers[0] == answers[1]
    assert np.array_equal(*images)
    assert images[0].any() == bool(number)


def test_an_rle_of_another_size():
    rles = encode_mask_results(arrays(2))
    with pytest.raises(InputError, match=r'RLEMasks: an RLE is of \[11, 14\], the image of \[14, 11\] \(height, width\)'):
        RLEMasks(rles, 14, 11)
    with pytest.raises(InputError, match='of one image'):
        RLEMasks.cat([RLEMasks(rles, *SIZE), rle_masks(arrays(1, size=(3, 3)))])
    with pytest.raises(InputError, match=r'RLEMasks\.cat: no masks are given'):
        RLEMasks.cat([])
