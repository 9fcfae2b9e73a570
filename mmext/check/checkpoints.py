"""The checkpoint that a config starts from: MMDetection's entry for it, what it fills, what input it was trained on."""

import re
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path

import torch
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner.checkpoint import CheckpointLoader
from mmengine.utils import get_installed_path
from torch import nn

from mmext.analysis.findings import Finding, first
from mmext.errors import InputError, some
from mmext.optim.group_table import fresh_tensors
from mmext.safe_load import allow_mmengine_checkpoints

_found = partial(Finding, where='config')

# what a network's input went through, and the setting of the backbone that changes what its weights mean: R50 weights of
# Caffe2 and of PyTorch have the same shapes
_SEEN = ('data_preprocessor.mean', 'data_preprocessor.std', 'data_preprocessor.bgr_to_rgb', 'backbone.style')
_DEFAULTS = {'data_preprocessor.bgr_to_rgb': False, 'backbone.style': 'pytorch'}


def mmdet_folder() -> Path:
    """Where MMDetection keeps its configs and the metafiles that list its checkpoints."""
    return Path(get_installed_path('mmdet'), '.mim')


def _entries(text: str) -> dict[str, dict]:
    document = yaml.load(text, Loader=getattr(yaml, 'CSafeLoader', yaml.SafeLoader))
    found = {}
    for model in document if isinstance(document, list) else document.get('Models', []):
        weights = model.get('Weights')
        found |= dict.fromkeys(weights if isinstance(weights, list) else [weights], model)
    return found


@cache
def published() -> dict[str, dict]:
    """URL of a checkpoint to MMDetection's own entry for it."""
    found = {}
    for file in sorted((mmdet_folder() / 'configs').glob('*/metafile.yml')):
        found |= _entries(file.read_text())
    return found


def entry_of(load_from: str) -> dict | None:
    """MMDetection's entry of a checkpoint, by its file name, which a download keeps; None when it is not one of theirs."""
    name = load_from.rsplit('/', 1)[-1]
    for file in sorted((mmdet_folder() / 'configs').glob('*/metafile.yml')):
        text = file.read_text()
        if name in text:  # only then parsed: all of them take a second
            entry = next((entry for url, entry in _entries(text).items() if url and url.endswith(f'/{name}')), None)
            if entry:
                return entry
    return None


def shapes_of(entry: Mapping) -> dict[str, torch.Tensor]:
    """Names and shapes of a checkpoint's tensors, from MMDetection's config of it: nothing is downloaded or computed."""
    model = Config.fromfile(mmdet_folder() / entry['Config']).model
    with torch.device('meta'):
        return dict(MODELS.build(model).state_dict())


def preprocessing_findings(model: Mapping, load_from: str, entry: Mapping) -> list[Finding]:
    """Where the input that a config gives to the network is not the one that its weights were trained on.

    Args:
        model: the config's ``model``.
        load_from: the checkpoint, for the words.
        entry: MMDetection's entry of it.
    """
    theirs = Config.fromfile(mmdet_folder() / entry['Config']).model
    wrong = {path: _setting(theirs, path) for path in _SEEN if _setting(model, path) != _setting(theirs, path)}
    if not wrong:
        return []
    examples = [f'{path} is {_setting(model, path)}, of the weights {value}' for path, value in wrong.items()]
    return [
        _found(
            code='checkpoint-preprocessing',
            severity='warning',
            text=f'The weights of load_from were trained on other input than this config gives: {some(wrong)}. They fit in '
            f'shape, and see what they do not know. They are {entry["Name"]} of MMDetection.',
            count=len(wrong),
            examples=first(examples),
            remedy='\n'.join(f'model.{path}={_as_option(value)}' for path, value in wrong.items()),
        )
    ]


def _setting(model: Mapping, path: str):
    value = model
    for key in path.split('.'):
        value = value.get(key) if isinstance(value, Mapping) else None
    value = _DEFAULTS.get(path) if value is None else value
    return [float(item) for item in value] if isinstance(value, (list, tuple)) else value


def _as_option(value) -> str:
    return str(value).replace(' ', '')


def fresh_of(model: nn.Module, load_from: str, entry: Mapping | None) -> tuple[dict[str, str] | None, list[Finding]]:
    """Tensors that the checkpoint does not fill, each with the reason; None when nothing tells. Never downloads.

    Args:
        model: the config's, built.
        load_from: a file, or a URL: of one that MMDetection published the names and shapes are known from its config.
        entry: MMDetection's entry of it, if there is one.
    """
    local = local_file(load_from)
    if local is None and entry is None:
        if _is_url(load_from):
            return None, [_not_read(load_from, 'it is not downloaded for a check, and MMDetection does not list it')]
        return None, [
            _found(
                code='checkpoint-missing',
                severity='severe',
                text=f'load_from: there is no file {load_from}; the training would stop at its start.',
                remedy='load_from=PATH of the checkpoint, or load_from=None to start from the weights of the backbone alone',
            )
        ]
    try:
        if local is not None:
            allow_mmengine_checkpoints()
            checkpoint = CheckpointLoader.load_checkpoint(str(local), map_location='cpu')
        else:
            checkpoint = shapes_of(entry)
    except Exception as error:  # a foreign or damaged file, or a model that MMDetection cannot build here
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return None, [_not_read(load_from, reason, 'warning' if local is not None else 'information')]
    try:
        return fresh_tensors(model, checkpoint), []
    except InputError as error:
        return None, [
            _found(
                code='checkpoint-fits-nothing',
                severity='severe',
                text=str(error),
                remedy='load_from=PATH of a checkpoint of this very model',
            )
        ]


def _is_url(load_from: str) -> bool:
    return re.match(r'[a-z][a-z0-9+.-]*://', load_from) is not None


def local_file(load_from: str) -> Path | None:
    """The file of a checkpoint, by its path or, downloaded once, by its URL; None when it is not here."""
    path = Path(load_from)
    if _is_url(load_from):  # where torch keeps what it has downloaded once
        path = Path(torch.hub.get_dir(), 'checkpoints', load_from.rsplit('/', 1)[-1])
    return path if path.is_file() else None


def _not_read(load_from: str, reason: str, severity: str = 'information') -> Finding:
    return _found(
        code='checkpoint-not-read',
        severity=severity,
        text=f'load_from was not read ({reason}), so loaded and new tensors are not told apart: {load_from}',
        remedy=None,
    )


def frozen_findings(model: nn.Module, cfg: Mapping, fresh: Mapping[str, str] | None) -> list[Finding]:
    """Frozen tensors that no weights fill: they stay as random as they were initialised.

    Args:
        model: the config's, built; what is frozen has no gradient.
        cfg: the config's ``model``.
        fresh: tensors that the checkpoint does not fill; None when there is no checkpoint or nothing is known of it.
    """
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    backbone = cfg.get('backbone') or {}
    inits = backbone.get('init_cfg') or []
    inits = [inits] if isinstance(inits, Mapping) else inits
    pretrained = backbone.get('pretrained') or any(init.get('type') == 'Pretrained' for init in inits)
    if fresh is not None:
        left = [name for name in frozen if name in fresh and not (pretrained and name.startswith('backbone.'))]
    else:
        left = [name for name in frozen if name.startswith('backbone.') and not pretrained]
    if not left:
        return []
    return [
        _found(
            code='frozen-and-random',
            severity='severe',
            text=f'{len(left)} tensors are frozen, and no weights are loaded into them: they stay random for good.',
            count=len(left),
            examples=first(left),
            remedy='model.backbone.frozen_stages=-1 model.backbone.norm_eval=False\n'
            'or weights for them: load_from, or model.backbone.init_cfg',
        )
    ]
