import os
import subprocess
import sys

import pytest
from mmengine.config import Config

import mmext
from mmext.errors import InputError
from mmext.gloo import launched

ONE_PROCESS = {'RANK': '0', 'WORLD_SIZE': '1', 'LOCAL_RANK': '0', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': '0'}


@pytest.mark.parametrize(
    'arguments',
    [['c.py', '--launcher', 'pytorch'], ['c.py', '--launcher=pytorch'], ['--local-rank=0', '--launch', 'pytorch']],
)
def test_a_launcher_that_the_script_was_told_of(arguments):
    assert launched(ONE_PROCESS, arguments)
    for name in ONE_PROCESS:
        assert not launched({key: value for key, value in ONE_PROCESS.items() if key != name}, arguments)


@pytest.mark.parametrize('arguments', [[], ['c.py'], ['c.py', '--launcher', 'none'], ['c.py', '--launcher', 'slurm']])
def test_without_launcher_pytorch_nothing_was_launched(arguments):
    assert not launched(ONE_PROCESS, arguments)


@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'my.py'
    text = "_base_ = [__import__('mmext').recipe('mask-rcnn_r18_fpn_finetune'), __import__('mmext').base('cpu_ddp')]\n"
    path.write_text(text)
    return path


def read(config, *arguments, **environment):
    code = (
        'import sys\n'
        'from mmengine.config import Config\n'
        'Config.fromfile(sys.argv[1])\n'
        'Config.fromfile(sys.argv[1])\n'  # a second reading finds the group there
        'print(sys.modules["torch"].distributed.get_backend() if "torch" in sys.modules else None)\n'
    )
    clean = {key: value for key, value in os.environ.items() if key not in ONE_PROCESS}
    command = [sys.executable, '-W', 'ignore', '-c', code, config, *arguments]
    done = subprocess.run(command, env=clean | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_group_is_started_by_reading_the_config_only_where_launched(config):
    no_gpu = {'CUDA_VISIBLE_DEVICES': '-1'}
    assert read(config, '--launcher', 'pytorch', **ONE_PROCESS, **no_gpu) == 'gloo'
    assert read(config, '--launcher', 'pytorch', **no_gpu) == 'None'  # torch was not even imported
    assert read(config, **ONE_PROCESS, **no_gpu) == 'None'


def test_base_adds_one_key_to_a_recipe(config):
    recipe = Config.fromfile(mmext.recipe('mask-rcnn_r18_fpn_finetune'))
    several = Config.fromfile(config)
    assert several.pop('model_wrapper_cfg').device_ids is None
    assert several.to_dict() == recipe.to_dict()


def test_an_unknown_base_is_named_with_the_right_one():
    with pytest.raises(InputError, match=r"base: 'cpu_dpp' is not a base. Did you mean 'cpu_ddp'\? There are: cpu_ddp, "):
        mmext.base('cpu_dpp')
