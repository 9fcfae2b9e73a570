import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mmext

PACKAGE = Path(mmext.__file__).parent
# design: one way only; a layer may import those before it. The middle layer's members know nothing of each other,
# except that a hook may use the function whose values it carries (optim).
LAYERS = [
    {
        '__init__',
        'errors',
        'console',
        'safe_load',
        'atomic_file',
        'atomic_backend',
        'model',
        'class_rows',
        'run_state',
        'gloo',
        'registry',
        'data',
        'analysis',
    },
    {'assigners', 'losses', 'heads', 'structures', 'transforms', 'datasets', 'optim', 'loops', 'metrics', 'hooks'},
    {'check', 'probe', 'predict', 'sweep', 'page', 'demo_report'},
    {'cli'},
]
WITHIN_A_LAYER = {
    'probe': {'check'},
    'hooks': {'optim', 'heads', 'datasets', 'metrics'},
    'heads': {'losses', 'structures'},
    'transforms': {'structures'},
    'metrics': {'structures'},
}


def layer_of(name):
    return next(i for i, layer in enumerate(LAYERS) if name in layer)


def member(path):
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


@pytest.mark.parametrize('path', sorted(PACKAGE.rglob('*.py')), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    mine = member(path)
    for name in imports_of(path):
        if name.split('.')[0] != 'mmext':
            continue
        second = f'{name}.'.split('.')[1]
        theirs = second if any(second in layer for layer in LAYERS) else '__init__'
        if mine == theirs:
            continue
        allowed = layer_of(theirs) < layer_of(mine) or theirs in WITHIN_A_LAYER.get(mine, ()) or layer_of(mine) == 0
        assert allowed, f'{path.relative_to(PACKAGE)} imports {name}'


@pytest.mark.parametrize(
    'module',
    [
        'mmext',
        'mmext.registry',
        'mmext.gloo',
        'mmext.cli',
        'mmext.data.coco_file',
        'mmext.data.demo',
        'mmext.data.file_checks',
        'mmext.data.grey_limits',
        'mmext.data.mask_checks',
        'mmext.data.image_checks',
        'mmext.data.image_loading',
        'mmext.data.image_pixels',
        'mmext.data.image_scaling',
        'mmext.data.image_windows',
        'mmext.data.large_image',
        'mmext.data.folds',
        'mmext.data.own_data',
        'mmext.data.split_checks',
        'mmext.data.sheets',
        'mmext.data.tile_files',
        'mmext.analysis.agreement',
        'mmext.analysis.bootstrap',
        'mmext.analysis.changes',
        'mmext.analysis.child_config',
        'mmext.analysis.coco_ap',
        'mmext.analysis.compare',
        'mmext.analysis.compare_report',
        'mmext.analysis.cross_validation',
        'mmext.analysis.findings',
        'mmext.analysis.operating_point',
        'mmext.analysis.report',
        'mmext.analysis.split_merge',
        'mmext.analysis.watch',
        'mmext.analysis.mask_match',
        'mmext.analysis.mask_shape',
        'mmext.analysis.noise',
        'mmext.analysis.predictions',
        'mmext.page.figure_files',
        'mmext.page.html_page',
        'mmext.page.panels',
        'mmext.page.worst_images',
        'mmext.predict.centerline',
        'mmext.predict.export',
        'mmext.predict.image_files',
        'mmext.predict.lab_report',
        'mmext.predict.measure',
        'mmext.predict.records',
        'mmext.predict.run',
        'mmext.predict.tiles',
    ],
)
def test_light_modules_load_no_torch(module):
    heavy = ('torch', 'mmdet', 'mmcv', 'scipy', 'skimage', 'cv2', 'matplotlib')
    code = f'import sys, {module}; print([m for m in {heavy} if m in sys.modules])'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'


@pytest.mark.parametrize('scope', ['mmengine', 'mmdet', 'mmext'])
def test_our_names_are_found_from_any_scope(scope):
    code = (
        'import warnings; warnings.simplefilter("ignore")\n'
        'from mmengine.registry import DefaultScope, HOOKS, PARAM_SCHEDULERS, TRANSFORMS, OPTIM_WRAPPER_CONSTRUCTORS\n'
        'from mmengine.registry import TASK_UTILS\n'
        f'DefaultScope.get_instance("test", scope_name={scope!r})\n'
        'found = [HOOKS.get("mmext.GroupLRHook"), PARAM_SCHEDULERS.get("mmext.WarmupShareLR"),\n'
        '         TRANSFORMS.get("mmext.LoadInstanceMasks"),\n'
        '         OPTIM_WRAPPER_CONSTRUCTORS.get("mmext.NamedParamGroupConstructor"),\n'
        '         TASK_UTILS.get("mmext.MaxIoUAssigner")]\n'
        'print([part.__name__ for part in found])'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(
        ['GroupLRHook', 'WarmupShareLR', 'LoadInstanceMasks', 'NamedParamGroupConstructor', 'MaxIoUAssigner']
    )
