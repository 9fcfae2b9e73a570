from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import mmext
from mmext.console import plain
from mmext.hooks.loss_share import epoch_table, loss_weights, metric_line

HOOKS = {'loss_share': {'type': 'mmext.LossShareHook'}}
FIVE = {'loss_rpn_cls': 0.05, 'loss_rpn_bbox': 0.03, 'loss_cls': 0.08, 'loss_bbox': 0.06, 'loss_mask': 0.4}


def test_share_on_a_line_is_that_of_the_losses_on_the_line(train_tiny):
    _, lines = train_tiny(default_hooks=HOOKS | {'logger': {'type': 'LoggerHook', 'interval': 3}}, losses=('mask', 'cls'))
    assert len(lines) == 4
    for line in lines:
        assert line['share_mask'] == pytest.approx(line['loss_mask'] / (line['loss_mask'] + line['loss_cls']), abs=1e-9)
        assert line['share_mask'] + line['share_cls'] == pytest.approx(1)
        assert not any(name.startswith('raw_share') for name in line)
    assert len({line['share_mask'] for line in lines}) > 1


def test_raw_shares_stand_beside_when_a_weight_is_not_one(train_tiny):
    _, lines = train_tiny(default_hooks=HOOKS, losses=('mask', 'cls'), mask_weight=0.25)
    for line in lines:
        mask, cls = line['loss_mask'], line['loss_cls']
        assert line['share_mask'] == pytest.approx(mask / (mask + cls))
        assert line['raw_share_mask'] == pytest.approx(4 * mask / (4 * mask + cls))


def test_odd_names_do_not_feed_on_themselves(train_tiny):
    _, lines = train_tiny(default_hooks=HOOKS, losses=('mask', 'cls'), rename={'loss_cls': 'my_loss_of_class'})
    shares = {name for name in lines[-1] if 'share' in name}
    assert shares == {'share_mask', 'share_my_loss_of_class'}


def test_iteration_based_training_has_a_block_a_validation_and_none_of_nothing(train_tiny, capsys):
    train_tiny(default_hooks=HOOKS, train_cfg={'type': 'IterBasedTrainLoop', 'max_iters': 9, 'val_interval': 100})
    assert capsys.readouterr().out.count('mean losses') == 1


def test_a_total_that_is_no_number_leaves_no_share(train_tiny):
    _, lines = train_tiny(default_hooks=HOOKS, scale=1e30)
    assert lines[-1]['share_mask'] != lines[-1]['share_mask']  # not a number


def test_one_block_an_epoch_in_console_and_log(train_tiny, capsys):
    runner, _ = train_tiny(default_hooks=HOOKS, epochs=3)
    console = capsys.readouterr().out
    log = next(Path(runner.log_dir).glob('*.log')).read_text()
    for text in (console, log):
        assert [text.count(f'Epoch {epoch} of 3: mean losses') for epoch in (1, 2, 3)] == [1, 1, 1]


def test_block_has_the_mean_of_its_own_epoch(train_tiny, capsys):
    _, lines = train_tiny(default_hooks=HOOKS, epochs=2, images=4, log_processor={'window_size': 1})
    blocks = capsys.readouterr().out.split('mean losses')[1:]
    for epoch, block in enumerate(blocks):
        mean = sum(line['loss_mask'] for line in lines[4 * epoch : 4 * epoch + 4]) / 4
        assert f'{mean:.4f}' in block


def test_bands_stand_beside_only_where_they_hold():
    with_bands = plain(epoch_table('Epoch 10', FIVE, True))
    assert '64.5%' in with_bands
    assert '30-40 %' in with_bands
    assert 'usual share' not in plain(epoch_table('Epoch 10', FIVE, False))
    assert with_bands.index('mask') < with_bands.index('rpn_bbox')


def test_metric_line():
    metrics = {'coco/bbox_mAP': 0.6543, 'coco/segm_mAP': 0.2134, 'val_loss': 0.9123, 'other': 1}
    assert metric_line(metrics) == 'box AP 0.654, mask AP 0.213, validation loss 0.912'
    assert metric_line({}) is None


def test_weights_are_read_from_the_model():
    init_default_scope('mmdet')
    cfg = Config.fromfile(mmext.recipe('mask-rcnn_r18_fpn_finetune'))
    assert loss_weights(MODELS.build(cfg.model)) == {}
    cfg.model.rpn_head.loss_cls.loss_weight = 0.5
    cfg.model.roi_head.mask_head.loss_mask.loss_weight = 2.0
    assert loss_weights(MODELS.build(cfg.model)) == {'loss_rpn_cls': 0.5, 'loss_mask': 2.0}


def test_stage_weights_of_a_cascade_count():
    from mmengine.hub import get_config

    init_default_scope('mmdet')
    model = MODELS.build(get_config('mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py').model)
    weights = loss_weights(model)
    assert weights['s1.loss_mask'] == 0.5
    assert weights['s2.loss_cls'] == 0.25
    assert 's0.loss_cls' not in weights


def test_each_of_several_mask_losses_has_its_weight():
    init_default_scope('mmdet')
    cfg = Config.fromfile(mmext.recipe('mask-rcnn_r18_fpn_finetune'))
    several = [{'type': 'CrossEntropyLoss', 'use_mask': True}, {'type': 'DiceLoss', 'loss_weight': 0.5}]
    cfg.model.roi_head.mask_head.type = 'mmext.FCNMaskHead'
    cfg.model.roi_head.mask_head.loss_mask = several
    assert loss_weights(MODELS.build(cfg.model)) == {'dice.loss_mask': 0.5}


def test_one_process_says_nothing_of_several(train_tiny, capsys):
    runner, _ = train_tiny(default_hooks=HOOKS)
    (log,) = Path(runner.log_dir).glob('*.log')
    assert 'first of' not in capsys.readouterr().out + log.read_text()
