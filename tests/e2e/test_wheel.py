"""A person without the checkout: the wheel in another environment, a config written by `mmext init`, one iteration."""

import json
import shutil
import site
import subprocess
import sys
from pathlib import Path

import mmext


def call(*command, cwd):
    done = subprocess.run([*map(str, command)], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_wheel_carries_the_configs_and_trains(demo_data, tmp_path):
    source = tmp_path / 'source'
    checkout = mmext.config_root().parent
    shutil.copytree(checkout / 'mmext', source / 'mmext', ignore=shutil.ignore_patterns('__pycache__'))
    shutil.copytree(checkout / 'configs', source / 'configs', ignore=shutil.ignore_patterns('__pycache__'))
    files = (
        'setup.py',
        'setup.cfg',
        'pyproject.toml',
        'MANIFEST.in',
        'README.md',
        'LICENSE',
        'constraints.txt',
        'model-index.yml',
    )
    for name in files:
        shutil.copy(checkout / name, source)
    call(sys.executable, '-m', 'build', '--wheel', '--no-isolation', '-o', tmp_path, '.', cwd=source)
    (wheel,) = tmp_path.glob('mmext-*.whl')

    call(sys.executable, '-m', 'venv', tmp_path / 'venv', cwd=tmp_path)
    python = tmp_path / 'venv/bin/python'
    packages = Path(call(python, '-c', 'import site; print(site.getsitepackages()[0])', cwd=tmp_path).strip())
    # the heavy stack is lent by this environment; its own .pth files, so the editable mmext too, are not read from there
    (packages / 'lent.pth').write_text(site.getsitepackages()[0] + '\n')
    call(python, '-m', 'pip', 'install', '--no-deps', '--no-index', '--force-reinstall', wheel, cwd=tmp_path)
    found = call(python, '-c', 'import mmext; print(mmext.__file__, len(mmext.recipes()))', cwd=tmp_path).split()
    assert found[0].startswith(str(packages))
    assert int(found[1]) == len(mmext.recipes())
    searched = call(tmp_path / 'venv/bin/python', '-m', 'mim', 'search', 'mmext', '--valid-config', cwd=tmp_path)
    assert 'mask-rcnn_r50_fpn_finetune_microplastics' in searched

    document = json.loads((demo_data / 'train/annotations.json').read_text())
    document['images'] = document['images'][:4]
    document['annotations'] = [a for a in document['annotations'] if a['image_id'] <= 4]
    (tmp_path / 'four.json').write_text(json.dumps(document))
    command = [tmp_path / 'venv/bin/mmext', 'init', '--train', 'four.json', demo_data / 'train']
    command += ['--val', demo_data / 'val/annotations.json', demo_data / 'val']
    call(*command, '--recipe', 'mask-rcnn_r18_fpn_finetune', '--out', 'my.py', cwd=tmp_path)
    train = ['train', 'mmdet', 'my.py', '--cfg-options', 'train_cfg.max_epochs=1', 'default_hooks.logger.interval=1']
    output = call(python, '-m', 'mim', *train, cwd=tmp_path)
    assert 'Epoch(train) [1][1/1]' in output
    assert 'mask_head_lr' in output
    assert (tmp_path / 'work_dirs/my/epoch_1.pth').is_file()
    call(tmp_path / 'venv/bin/mmext', 'compare', 'work_dirs/my', '--html', 'page.html', cwd=tmp_path)
    assert 'data-panel="loss-mask"' in (tmp_path / 'page.html').read_text()
