import io
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

from mmext.console import plain
from mmext.demo_report import draw, evaluate, ground_truth, spread_table, to_table
from mmext.errors import InputError


@pytest.fixture(scope='module')
def evaluated(run_folder):
    return evaluate(run_folder)


def test_table_has_the_runs_own_metrics(evaluated):
    result, files, truths = evaluated
    assert len(files) == len(truths) == len(result.predictions) == 4
    assert result.metrics['mask AP'] == result.run.last('coco/segm_mAP')
    assert 0 <= result.matched <= result.objects == sum(len(truth.labels) for truth in truths)
    if result.matched:
        assert 0 <= result.mask_iou <= result.coverage <= 1  # 0: after two iterations a mask may be empty
    text = plain(to_table([result]))
    assert f'{result.matched} of {result.objects}' in text


def test_spread_is_over_the_seeds_of_a_setting(evaluated):
    result = evaluated[0]
    seeds = [
        replace(
            result, run=replace(result.run, path=Path(name)), metrics=dict.fromkeys(result.metrics, value), mask_iou=value
        )
        for name, value in (('low-seed0', 0.2), ('low-seed1', 0.4), ('high-seed0', 0.5))
    ]
    text = plain(spread_table(seeds))
    assert '0.300' in text
    assert '(0.20-0.40)' in text
    assert text.count('low') == 1
    assert '0.500' in text


def test_a_long_name_is_whole_at_the_width_of_the_demo(evaluated):
    names = [f'differential-10x{name}-seed{seed}' for name in ('', '-adam') for seed in (0, 1)]
    results = [replace(evaluated[0], run=replace(evaluated[0].run, path=Path(name))) for name in names]
    text = io.StringIO()
    for table in (to_table(results), spread_table(results)):
        Console(file=text, width=120, force_terminal=False).print(table)
    for name in (*names, 'differential-10x ', 'differential-10x-adam '):
        assert f' {name}' in text.getvalue()


def test_picture_is_drawn(evaluated, tmp_path):
    result, files, truths = evaluated
    draw([result, result], files, truths, tmp_path / 'masks.png', images=3)
    picture = cv2.imread(str(tmp_path / 'masks.png'))
    assert picture.shape[1] > picture.shape[0] > 200
    assert picture.std() > 10


def test_ground_truth_is_that_of_the_file(demo_config):
    from mmengine.config import Config

    files, truths = ground_truth(Config.fromfile(demo_config).val_dataloader.dataset)
    assert all(cv2.imread(file) is not None for file in files)
    assert all(len(truth.rles) == len(truth.boxes) for truth in truths)
    assert np.concatenate([truth.labels for truth in truths]).max() == 2


def test_a_run_without_a_checkpoint_is_an_error(tmp_path):
    with pytest.raises(InputError, match='no run in it'):
        evaluate(tmp_path)
