"""Write docs/models.md: ``python tools/model_table.py``, about three minutes on two cores.

Of each recipe: parameters, the checkpoint that it starts from with the AP that MMDetection publishes for it, and how many
tensors that checkpoint does not fill.
"""

import copy
import sys
from functools import cache
from pathlib import Path

import torch
import yaml
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.utils import get_installed_path

import mmext
from mmext.optim.group_table import fresh_tensors

ROOT = Path(__file__).resolve().parents[1]
MMDET = Path(get_installed_path('mmdet'), '.mim')
# box AP, mask AP and frames a second by the source document on variants (S2), on COCO
S2 = {
    'mask-rcnn_r50_fpn_finetune': ('41.0', '37.1', '5.0'),
    'mask-rcnn_r101_fpn_finetune': ('42.9', '38.6', '3.5'),
    'mask-rcnn_x101-64x4d_fpn_finetune': ('44.3', '39.8', '2.8'),
    'mask-rcnn_r50_fpn_finetune_mask14': ('-', '34.2', '-'),
    'mask-rcnn_r50_fpn_finetune_mask56': ('-', '37.8', '-'),
    'mask-rcnn_r50_fpn_finetune_convs2': ('-', '36.1', '-'),
    'mask-rcnn_r50_fpn_finetune_convs8': ('-', '37.3', '-'),
    'mask-rcnn_r50_fpn_finetune_class-agnostic': ('-', '35.9', '-'),
    'mask-rcnn_r50_fpn_finetune_roi-pool': ('-', '35.8', '-'),
}
HEAD = """# Models

Made by `python tools/model_table.py`. Parameters are of the model with three classes. Box and mask AP on COCO are what
MMDetection publishes for the checkpoint, not for our recipe. New tensors are those that it does not fill, by name
and shape. Operations and times have not been measured yet; MMDetection's `get_flops` counts the former:
`mim run mmdet get_flops CONFIG`.
"""


@cache
def published() -> dict[str, dict]:
    """URL of a checkpoint to MMDetection's own entry for it."""
    entries = {}
    for file in sorted((MMDET / 'configs').glob('*/metafile.yml')):
        document = yaml.safe_load(file.read_text())
        for model in document if isinstance(document, list) else document.get('Models', []):
            weights = model.get('Weights')
            entries |= dict.fromkeys(weights if isinstance(weights, list) else [weights], model)
    return entries


def published_ap(entry: dict) -> list[str]:
    """Box and mask AP of an entry; ``-`` where none is published."""
    metrics = {name: value for result in entry.get('Results') or [] for name, value in result['Metrics'].items()}
    return [str(metrics.get(name, '-')) for name in ('box AP', 'mask AP')]


def built(model: dict) -> torch.nn.Module:
    """A model of a config, without weights from the network."""
    model = copy.deepcopy(model)
    model.backbone.init_cfg = None
    return MODELS.build(model).eval()


def row(name: str, entries: dict) -> list[str]:
    cfg = Config.fromfile(mmext.recipe(name))
    model, entry = built(cfg.model), entries.get(cfg.get('load_from'))
    cells = [f'`{name}`', f'{sum(p.numel() for p in model.parameters()) / 1e6:.1f}']
    start = ['-', '-', '-', '-']
    if entry:
        theirs = built(Config.fromfile(MMDET / entry['Config']).model).state_dict()
        new = fresh_tensors(model, {'state_dict': theirs})
        start = [entry['Name'], *published_ap(entry), f'{len(new)} of {len(model.state_dict())}']
    return [*cells, *start]


def s2_table(entries: dict) -> list[str]:
    lines = [
        "## S2's figures",
        '',
        '| recipe | S2: box AP | mask AP | frames a second | MMDetection: box AP | mask AP |',
        '| --- | ---: | ---: | ---: | ---: | ---: |',
    ]
    for name, figures in S2.items():
        entry = entries.get(Config.fromfile(mmext.recipe(name)).load_from) if figures[0] != '-' else None
        lines.append('| ' + ' | '.join([f'`{name}`', *figures, *(published_ap(entry) if entry else '--')]) + ' |')
    return [
        *lines,
        '',
        "S2 calls its figures those of the 1x schedule. MMDetection's 1x model of R50 has 38.2 and 34.7; S2's 41.0 and 37.1",
        'are what a 3x multi-scale schedule gives, which is why our recipes start from those weights. Of its X101 the box',
        'AP is that of 32x8d and the mask AP near that of 64x4d. MMDetection publishes none of the ablations; S2 names no',
        'hardware.',
    ]


def main() -> int:
    register_all_modules(init_default_scope=True)
    entries, lines = published(), [HEAD]
    folders: dict[str, list[str]] = {}
    for name, path in mmext.recipes().items():
        folders.setdefault(path.parent.name, []).append(name)
    for folder, names in folders.items():
        if folder == 'demo':
            continue
        lines += [
            f'## {folder}',
            '',
            '| recipe | parameters (M) | starts from | box AP | mask AP | new tensors |',
            '| --- | ---: | --- | ---: | ---: | ---: |',
        ]
        for name in names:
            cells = row(name, entries)
            print(*cells, sep='  ', flush=True)
            lines.append('| ' + ' | '.join(cells) + ' |')
        lines.append('')
    (ROOT / 'docs' / 'models.md').write_text('\n'.join([*lines, *s2_table(entries)]) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
