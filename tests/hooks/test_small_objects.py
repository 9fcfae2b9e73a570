import re
from pathlib import Path

import pytest
from mmdet.structures.bbox import get_box_tensor
from mmengine.runner import Runner

from mmext.optim.group_report import load_config

HEAD = ['model.rpn_head.type=mmext.MinSizeRPNHead', 'load_from=None']


def start(demo_config, work_dir, *options):
    cfg = load_config(str(demo_config), [*HEAD, *options])
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = work_dir.name + work_dir.parent.name
    runner = Runner.from_cfg(cfg)
    runner.train_loop  # noqa: B018 - builds it, as the hook wants its data
    hook = next(hook for hook in runner.hooks if type(hook).__name__ == 'SmallObjectsHook')
    hook.before_train(runner)
    return next(Path(runner.log_dir).glob('*.log')).read_text()


@pytest.mark.parametrize(('limit', 'expected'), [(20, True), (1, False), (0, False)])
def test_small_instances_are_counted_by_class_and_warned_of(demo_config, tmp_path, limit, expected):
    log = start(demo_config, tmp_path / f'limit{limit}', f'model.rpn_head.min_size={limit}')
    assert (f'Instances under {limit} px after the resize' in log) == (limit > 0)
    assert ('for them, so most will never be found' in log) == expected
    if expected:
        total, small = map(int, re.search(r'Fiber\W+(\d+)\W+(\d+)', log).groups())
        assert 0 < small <= total


def test_counts_are_those_of_the_images_that_training_sees(demo_config, tmp_path):
    """Side of every box as the training pipeline gives it, against the count from annotations alone."""
    from mmext.hooks.small_objects import count_small

    scale = 'train_dataloader.dataset.pipeline.2.scale=(400,300)'
    cfg = load_config(str(demo_config), [*HEAD, scale])
    dataset = Runner.build_dataloader(cfg.train_dataloader, seed=0).dataset
    total, small = count_small(dataset, 20)
    sides = []
    for sample in dataset:
        boxes = get_box_tensor(sample['data_samples'].gt_instances.bboxes)
        sides += (boxes[:, 2:] - boxes[:, :2]).min(1).values.tolist()
    assert total.total() == len(sides)
    assert small.total() == sum(side < 20 for side in sides)
    assert 0 < small.total() < total.total()
