"""mmext: named learning-rate groups and loss insight for fine-tuning instance segmentation with MMDetection."""

from pathlib import Path

__version__ = '0.1.0'

# Data sets whose name ends a recipe's file name, in the order in which a recipe is looked for.
_DATA_SETS = ('microplastics', 'demo', 'shapes')


def config_root() -> Path:
    """Folder of the shipped configs: the checkout's in an editable install, ``mmext/.mim/configs`` in a wheel."""
    package = Path(__file__).resolve().parent
    shipped = package / '.mim' / 'configs'
    return shipped if shipped.is_dir() else package.parent / 'configs'


def recipes() -> dict[str, Path]:
    """Every recipe: file name without ``.py`` and without the data set's suffix, to its path."""
    found = {}
    for data_set in _DATA_SETS:
        for path in sorted(config_root().glob(f'[!_]*/*_{data_set}.py')):
            found.setdefault(path.stem.removesuffix(f'_{data_set}'), path)
    return dict(sorted(found.items()))


def recipe(name: str) -> str:
    """Path of a shipped recipe, to inherit from: ``_base_ = __import__('mmext').recipe('mask-rcnn_r50_fpn_finetune')``.

    Args:
        name: as printed by ``mmext init --recipe list``; the file's own name is accepted too.

    Raises:
        InputError: when there is no such recipe; the message lists the names.
    """
    found = recipes()
    path = found.get(name) or next((path for path in found.values() if path.stem == name), None)
    if path is None:
        from mmext.errors import InputError, did_you_mean

        raise InputError(f'recipe: {name!r} is not a recipe. {did_you_mean(name, found)}There are: {", ".join(found)}.')
    return str(path)


def base(name: str) -> str:
    """Path of a shipped base, to stand beside a config: ``_base_ = ['./my.py', __import__('mmext').base('cpu_ddp')]``.

    Args:
        name: path under ``configs/_base_`` without ``.py``.

    Raises:
        InputError: when there is no such base; the message lists the names.
    """
    folder = config_root() / '_base_'
    found = {path.relative_to(folder).with_suffix('').as_posix(): path for path in sorted(folder.rglob('*.py'))}
    if name not in found:
        from mmext.errors import InputError, did_you_mean

        raise InputError(f'base: {name!r} is not a base. {did_you_mean(name, found)}There are: {", ".join(found)}.')
    return str(found[name])
