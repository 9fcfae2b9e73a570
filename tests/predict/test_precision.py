import json

import numpy as np
import pytest
import torch

from mmext.errors import InputError
from mmext.predict.predictor import Predictor
from mmext.predict.run import Settings, predict


@pytest.fixture(scope='module')
def files(shapes_run):
    return shapes_run.parent / 'config.py', shapes_run / 'epoch_1.pth'


@pytest.fixture(scope='module')
def paths(shapes_run):
    return sorted((shapes_run.parent / 'val').glob('*.png'))[:2]


@pytest.fixture(scope='module')
def exact(files, paths):
    predictor = Predictor(*files, 'cpu', score_thr=0.7)
    assert predictor.remarks == []
    return predictor(paths)


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


# the scores of the surest objects, and the overlap of their masks
@pytest.mark.parametrize(('precision', 'score', 'least'), [('fp32', 1e-3, 0.999), ('bf16', 0.05, 0.95)])
def test_a_precision_finds_the_same_objects(files, paths, exact, precision, score, least):
    predictor = Predictor(*files, 'cpu', score_thr=0.5, precision=precision)
    assert f'compute in {precision}, channels_last' in predictor.remarks[-1]
    for ours, stock in zip(predictor(paths), exact, strict=True):
        assert len(stock['scores'])
        for number, mask in enumerate(stock['masks']):
            overlaps = [iou(mask, other) for other in ours['masks']]
            best = int(np.argmax(overlaps))
            assert overlaps[best] >= least
            assert ours['labels'][best] == stock['labels'][number]
            assert ours['scores'][best] == pytest.approx(stock['scores'][number], abs=score)


def test_another_precision_is_refused(files):
    with pytest.raises(InputError, match=r"precision: 'fp16' is none. Allowed: auto, bf16, fp32\."):
        Predictor(*files, 'cpu', precision='fp16')


def test_the_command_says_it_and_predictions_of_another_are_not_mixed_in(files, paths, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: {})
    config, checkpoint = files

    def start(**settings):
        remarks = []
        predict(
            paths[:1], tmp_path / 'out', Settings(str(config), checkpoint, device='cpu', **settings), print, remarks.append
        )
        return remarks

    said = start(precision='auto')
    assert said[0].startswith('precision: this processor has no bf16')
    assert json.loads((tmp_path / 'out' / 'settings.json').read_text())['precision'] == 'auto'
    with pytest.raises(InputError, match='precision was auto, now None'):
        start()
