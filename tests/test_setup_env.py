"""The set-up's words when a step fails; that it succeeds is shown by these tests running at all."""

import os
import subprocess
import sys
from pathlib import Path

import mmext

SCRIPT = mmext.config_root().parent / 'tools' / 'setup_env.py'


def set_up(venv: Path, **environment) -> subprocess.CompletedProcess:
    command = [sys.executable, SCRIPT, '--venv', venv]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, cwd=venv.parent)


def test_a_failed_step_names_itself_its_log_and_the_remedy(tmp_path):
    venv = tmp_path / 'an environment'
    nothing = {'PIP_NO_INDEX': '1', 'PIP_FIND_LINKS': str(tmp_path), 'PIP_EXTRA_INDEX_URL': ''}
    failed = set_up(venv, **nothing)
    assert failed.returncode == 1
    log = venv / '.mmext/torch.log'
    assert 'set-up stopped at step "torch"' in failed.stderr
    assert f'Log: {log}' in failed.stderr
    assert 'Remedy: look whether the package index is reached' in failed.stderr
    assert 'pip install' in log.read_text()
    assert 'ERROR' in log.read_text()
    # the step that was done is not done again
    again = set_up(venv, **nothing)
    assert '[1/6]' in failed.stdout
    assert '[1/6]' not in again.stdout


def test_a_folder_that_is_something_else_is_left_alone(tmp_path):
    precious = tmp_path / 'data' / 'image.png'
    precious.parent.mkdir()
    precious.touch()
    failed = set_up(precious.parent)
    assert failed.returncode == 1
    assert 'is there and is not a virtual environment' in failed.stderr
    assert precious.exists()
