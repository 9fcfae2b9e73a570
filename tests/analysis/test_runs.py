import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmext.analysis.runs import flatten, read_config, read_run

TRAIN = {'loss': 1.0, 'loss_mask': 0.25, 'loss_cls': 0.75, 'epoch': 1, 'step': 10}
CONFIG = "model = dict(type='MaskRCNN', neck=dict(in_channels=[1, 2]))\noptim_wrapper = dict(optimizer=dict(lr={lr}))\n"


def make_run(folder, lines, lr=0.01, stamp='20260101_000000'):
    data = folder / stamp / 'vis_data'
    data.mkdir(parents=True)
    (data / 'scalars.json').write_text('\n'.join(json.dumps(line) for line in lines) + '\n')
    (data / 'config.py').write_text(CONFIG.format(lr=lr))
    return folder


def val(box, mask, step):
    return {'coco/bbox_mAP': box, 'coco/segm_mAP': mask, 'step': step}


def test_a_resumed_start_goes_on_from_the_earlier(tmp_path):
    first = [TRAIN, TRAIN | {'epoch': 2}, val(0.5, 0.4, 1), val(0.6, 0.5, 2)]
    make_run(tmp_path, first, stamp='20260101_000000')
    make_run(tmp_path, [TRAIN | {'epoch': 2, 'loss': 0.7}, val(0.3, 0.3, 2)], stamp='20260102_000000')
    run = read_run(tmp_path)
    assert [(line['epoch'], line['loss']) for line in run.train] == [(1, 1.0), (2, 0.7)]
    assert run.best('coco/bbox_mAP') == 0.5


def test_a_resumed_training_by_iterations_goes_on_too(tmp_path):
    def line(step, loss=1.0):
        return {'loss': loss, 'iter': step, 'step': step}

    make_run(tmp_path, [line(10), val(0.5, 0.4, 10), line(20), val(0.6, 0.5, 20)], stamp='20260101_000000')
    make_run(tmp_path, [line(20, 0.7), val(0.3, 0.3, 20)], stamp='20260102_000000')
    run = read_run(tmp_path)
    assert [(line['step'], line['loss']) for line in run.train] == [(10, 1.0), (20, 0.7)]
    assert [(line['step'], line['coco/bbox_mAP'], line.get('epoch')) for line in run.val] == [
        (10, 0.5, None),
        (20, 0.3, None),
    ]


def test_a_start_from_the_beginning_takes_the_place_of_the_earlier(tmp_path):
    make_run(tmp_path, [TRAIN | {'loss': 3.0}], stamp='20260101_000000')
    make_run(tmp_path, [TRAIN | {'loss': 2.0}], stamp='20260102_000000')
    make_run(tmp_path, [], stamp='20260103_000000')
    assert read_run(tmp_path).train[-1]['loss'] == 2.0


def test_what_cannot_be_read_is_said_and_no_crash(tmp_path):
    assert read_run(tmp_path / 'no').problem == 'there is no such folder'
    assert 'no run in it' in read_run(tmp_path).problem
    run = make_run(tmp_path / 'cut', [TRAIN])
    log = run / '20260101_000000/vis_data/scalars.json'
    log.write_text(log.read_text() + '{"loss": 0.')
    assert '1 lines of 20260101_000000 cannot be read' in read_run(run).problem
    assert len(read_run(run).train) == 1
    (run / '20260101_000000/vis_data/config.py').write_text('model = dict(a=open("x"))')
    assert 'its config cannot be read' in read_run(run).problem


def test_a_config_is_read_and_never_run(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text("a = dict(b=[1, (2, -3.5)], c=None, d={'x y': True})\n")
    assert read_config(path) == {'a': {'b': [1, [2, -3.5]], 'c': None, 'd': {'x y': True}}}
    path.write_text('a = {(1, 2): 3}\n')
    assert read_config(path) == {'a': {(1, 2): 3}}
    path.write_text('a = {[1]: 2}\n')
    with pytest.raises(ValueError, match='unhashable'):
        read_config(path)
    path.write_text(f'a = __import__("pathlib").Path({str(tmp_path / "ran")!r}).touch()\n')
    with pytest.raises(ValueError, match='malformed'):
        read_config(path)
    assert not (tmp_path / 'ran').exists()


def test_validations_are_put_to_their_epochs_however_they_are_counted():
    from mmext.analysis.runs import _at_epochs

    epochs = {10: 1, 20: 2, 30: 3}
    assert [line['epoch'] for line in _at_epochs(({'step': 1}, {'step': 3}), epochs)] == [1, 3]
    assert [line['epoch'] for line in _at_epochs(({'step': 10}, {'step': 30}), epochs)] == [1, 3]
    assert [line['epoch'] for line in _at_epochs(({'step': 15}, {'step': 31}), epochs)] == [1, 3]
    assert _at_epochs(({'coco/bbox_mAP': 0.1},), {}) == ({'coco/bbox_mAP': 0.1},)


def test_of_places_the_last_two_names_count():
    settings = {'work_dir': '/a', 'train_dataloader': {'dataset': {'ann_file': '/home/ann/set1/train.json'}}}
    settings['load_from'] = '/somewhere/else/coco.pth'
    settings['param_scheduler'] = [{'type': 'A', 'end': 3}]
    assert flatten(settings) == {
        'param_scheduler.0.type': 'A',
        'param_scheduler.0.end': 3,
        'load_from': 'else/coco.pth',
        'train_dataloader.dataset.ann_file': 'set1/train.json',
    }


LINE = st.dictionaries(st.sampled_from([*TRAIN, 'coco/segm_mAP']), st.floats() | st.integers() | st.none(), max_size=4)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LINE.map(json.dumps) | st.text(max_size=20), max_size=6), st.text(max_size=30))
def test_any_log_and_any_config_are_read(tmp_path_factory, lines, config):
    run = make_run(tmp_path_factory.mktemp('run'), [])
    data = run / '20260101_000000/vis_data'
    (data / 'scalars.json').write_text('\n'.join(lines), encoding='utf-8', errors='replace')
    (data / 'config.py').write_text(config, encoding='utf-8', errors='replace')
    read = read_run(run)
    assert read.problem is None or isinstance(read.problem, str)
    assert all(isinstance(value, (int, float)) for line in read.train + read.val for value in line.values())


def test_a_stock_run_is_read(demo_config, run_command, tmp_path):
    """MMDetection without any part of ours: stock constructor, loader and hooks."""
    import warnings

    from mmengine.config import Config

    warnings.simplefilter('ignore')
    cfg = Config.fromfile(demo_config)
    text = cfg.dump().replace('mmext.CocoInstanceDataset', 'CocoDataset')
    for name in ('CocoMetric', 'FCNMaskHead', 'MaxIoUAssigner'):
        text = text.replace(f'mmext.{name}', name)
    cfg = Config.fromstring(text, '.py')
    cfg.pop('custom_imports')
    cfg.load_from = None
    cfg.optim_wrapper = {'type': 'OptimWrapper', 'optimizer': {'type': 'SGD', 'lr': 0.01}}
    cfg.param_scheduler = []
    for name in [name for name, hook in cfg.default_hooks.items() if hook.type.startswith('mmext.')]:
        if name != 'checkpoint':
            cfg.default_hooks.pop(name)
    cfg.default_hooks.checkpoint.type = 'CheckpointHook'
    cfg.default_hooks.logger = {'type': 'LoggerHook', 'interval': 1}
    cfg.val_cfg.type = 'ValLoop'
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.num_workers, loader.persistent_workers = 0, False
        for step in loader.dataset.pipeline:
            if step.type == 'mmext.LoadInstanceMasks':
                step.update(type='LoadAnnotations', with_bbox=True, with_mask=True)
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.vis_backends = [{'type': 'LocalVisBackend'}]
    cfg.visualizer.vis_backends = cfg.vis_backends
    cfg.test_dataloader = cfg.val_dataloader
    for variable in ('train_pipeline', 'test_pipeline', 'dataset_type'):
        cfg.pop(variable)
    cfg.dump(tmp_path / 'stock.py')
    assert 'mmext.' not in (tmp_path / 'stock.py').read_text()
    run_command('mim', 'train', 'mmdet', 'stock.py', '--work-dir', 'stock')
    run_command('mmext', 'compare', 'stock', '--json', 'answer.json')
    (entry,) = json.loads((tmp_path / 'answer.json').read_text())['runs']
    assert entry['problem'] is None
    assert entry['best']['mask_ap'] is not None
    assert set(entry['shares']) == {'mask', 'cls', 'bbox', 'rpn_cls', 'rpn_bbox'}
    assert sum(entry['shares'].values()) == pytest.approx(1)
    assert (entry['state'], entry['verdict']['source']) == ('finished', 'the records')
