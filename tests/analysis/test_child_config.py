import json
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from mmext.analysis.child_config import child_config, remedies_of, write_child_config
from mmext.analysis.diagnose import Cause
from mmext.errors import InputError

BASE = """
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1))
optim_wrapper = dict(optimizer=dict(lr=0.02, type='SGD'), clip_grad=None, paramwise_cfg=dict(custom_keys=dict()))
param_scheduler = [
    dict(type='LinearLR', begin=0, end=500, by_epoch=False),
    dict(type='MultiStepLR', milestones=[8, 11]),
]
train_cfg = dict(max_epochs=12)
work_dir = '/old'
resume = True
"""


def cause(code='a', follows_from=None, severity='warning', **settings):
    settings = {key.replace('__', '.'): value for key, value in settings.items()}
    return Cause(code, severity, f'{code} is so.', settings=settings, follows_from=follows_from)


def written(tmp_path, *findings):
    base = tmp_path / "a person's run" / 'config.py'
    base.parent.mkdir(exist_ok=True)
    base.write_text(BASE)
    child = tmp_path / 'mended.py'
    assert write_child_config(child, base, Config.fromfile(base).to_dict(), findings)
    return Config.fromfile(child), child.read_text()


def test_the_child_has_the_changed_keys_and_the_rest_of_the_run(tmp_path):
    cfg, text = written(
        tmp_path,
        cause('rate', optim_wrapper__optimizer__lr=0.001, optim_wrapper__paramwise_cfg__custom_keys__roi_head__lr_mult=10),
        cause('length', train_cfg__max_epochs=24, param_scheduler__0__end=20, param_scheduler__1__milestones=[16, 22]),
        cause('best', default_hooks__checkpoint__save_best='coco/segm_mAP'),
    )
    assert cfg.optim_wrapper.optimizer == {'lr': 0.001, 'type': 'SGD'}
    assert cfg.optim_wrapper.paramwise_cfg.custom_keys == {'roi_head': {'lr_mult': 10}}
    assert cfg.param_scheduler == [
        {'type': 'LinearLR', 'begin': 0, 'end': 20, 'by_epoch': False},
        {'type': 'MultiStepLR', 'milestones': [16, 22]},
    ]
    assert cfg.train_cfg.max_epochs == 24
    assert cfg.default_hooks.checkpoint == {'type': 'CheckpointHook', 'interval': 1, 'save_best': 'coco/segm_mAP'}
    assert (cfg.work_dir, cfg.resume) == ('work_dirs/mended', False)
    assert '# rate: rate is so.' in text


def test_a_dict_takes_the_place_of_none(tmp_path):
    cfg, _ = written(tmp_path, cause(optim_wrapper__clip_grad__max_norm=1.0))
    assert cfg.optim_wrapper.clip_grad == {'max_norm': 1.0}


def test_keys_that_are_no_names_are_written_too(tmp_path):
    key = 'backbone-x'
    cfg, _ = written(tmp_path, Cause('a', 'warning', 'a.', settings={f'optim_wrapper.{key}.lr_mult': 2}))
    assert cfg.optim_wrapper[key] == {'lr_mult': 2}


def test_the_first_in_rank_decides_and_consequences_change_nothing():
    findings = [cause('a', x=1), cause('b', x=2, y=2), cause('c', follows_from='a', z=3)]
    assert remedies_of(findings) == {'x': 1, 'y': 2}
    assert child_config(Path('c.py'), {}, [cause('c', follows_from='a', z=3)], 'm') is None


def test_a_file_that_is_there_is_kept(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text('a = 1')
    with pytest.raises(InputError, match=r'mine.py is there already'):
        write_child_config(path, tmp_path / 'config.py', {}, [cause(x=1)])
    with pytest.raises(InputError, match='config of the run cannot be read'):
        write_child_config(tmp_path / 'new.py', None, {}, [cause(x=1)])


def test_advice_on_a_real_run_trains(run_folder, run_command, tmp_path):
    """The command line from a trained work_dir to the config that mends it, and its training."""
    run_command('mmext', 'diagnose', run_folder, '--write-config', 'mended.py', '--json', 'answer.json', status=1)
    answer = json.loads((tmp_path / 'answer.json').read_text())
    (finding,) = [one for one in answer['findings'] if one['follows_from'] is None and one['settings']]
    assert finding['code'] == 'few-iterations'
    epochs = finding['settings']['train_cfg.max_epochs']
    assert epochs >= 2
    # the whole advice would take minutes: that it is in the config is seen, and one epoch of it is trained
    assert Config.fromfile(tmp_path / 'mended.py').train_cfg.max_epochs == epochs
    command = [Path(sys.executable).parent / 'mim', 'train', 'mmdet', 'mended.py', '--cfg-options', 'train_cfg.max_epochs=1']
    done = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    assert list((tmp_path / 'work_dirs/mended').glob('*/diagnosis.json'))
