import pytest
import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS

import mmext
from mmext.errors import InputError
from mmext.optim import WarmupShareLR

SCHEDULE = Config.fromfile(mmext.recipe('mask-rcnn_r18_fpn_finetune')).param_scheduler


def rates(train_tiny, epochs):
    keys = {'mask_head': {'lr_mult': 10}}
    hooks = {'group_lr': {'type': 'mmext.GroupLRHook'}}
    _, lines = train_tiny(keys, hooks, epochs=epochs, images=10, lr=1e-3, param_scheduler=SCHEDULE)
    return [(line['backbone_lr'], line['mask_head_lr']) for line in lines]


@pytest.mark.parametrize('epochs', [4, 20])
def test_warm_up_and_decay_follow_the_length_of_the_run(train_tiny, epochs):
    found = rates(train_tiny, epochs)
    backbone = [rate for rate, _ in found]
    assert len(found) == 10 * epochs
    assert backbone[0] == pytest.approx(1e-6, rel=0.1)
    assert abs(backbone.index(max(backbone)) - 0.05 * len(found)) <= 1
    assert max(backbone) == pytest.approx(1e-3, rel=0.02)
    assert backbone[-1] == pytest.approx(1e-5, rel=0.2)
    assert all(head == pytest.approx(10 * rate, rel=1e-6) for rate, head in found)


@pytest.mark.parametrize('end', [1, 2, 10])
def test_a_run_too_short_for_warm_up_has_none(end):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    WarmupShareLR(optimizer, share=0.05, end=end, by_epoch=False)
    assert optimizer.param_groups[0]['lr'] == 0.5


@pytest.mark.parametrize(
    ('settings', 'words'),
    [
        ({'share': 1}, 'share is 1; it must be at least 0 and less than 1'),
        ({'share': '5%'}, "share is '5%'"),
        ({'start_factor': 0}, 'start_factor is 0; it must be above 0'),
        ({'by_epoch': True}, 'Set by_epoch=False'),
    ],
)
def test_mistakes_are_named(settings, words):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    cfg = {'type': 'mmext.WarmupShareLR', 'end': 100, 'by_epoch': False, **settings}
    with pytest.raises(InputError, match=words):
        PARAM_SCHEDULERS.build(cfg, default_args={'optimizer': optimizer})
