"""Write docs/models.md and configs/metafile.yml: ``python tools/model_table.py``, a minute on two cores.

Of each recipe: parameters, the checkpoint that it starts from with the AP that MMDetection publishes for it, how many
tensors that checkpoint does not fill, and the operations and times that benchmarks/models.py has measured.
"""

import json
import statistics
import sys
from pathlib import Path

import torch
import yaml
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.registry import MODELS

import mmext
from mmext.check.checkpoints import published, shapes_of
from mmext.optim.group_table import fresh_tensors

ROOT = Path(__file__).resolve().parents[1]
MEASURED = ROOT / 'benchmarks' / 'models.json'
BASE = 'mask-rcnn_r50_fpn_finetune'
# folder of configs/ to the family and its paper
FAMILIES = {
    'cascade_mask_rcnn': ('Cascade Mask R-CNN', 'Cai and Vasconcelos 2018, arXiv:1712.00726'),
    'htc': ('Hybrid Task Cascade', 'Chen et al. 2019, arXiv:1901.07518'),
    'mask_ablation': ('Mask R-CNN, mask head changed', 'He et al. 2017, arXiv:1703.06870'),
    'mask_loss': ('Mask losses', 'the header of each recipe'),
    'mask_rcnn': ('Mask R-CNN', 'He et al. 2017, arXiv:1703.06870'),
    'ms_rcnn': ('Mask Scoring R-CNN', 'Huang et al. 2019, arXiv:1903.00241'),
    'point_rend': ('PointRend', 'Kirillov et al. 2020, arXiv:1912.08193'),
    'solov2': ('SOLOv2', 'Wang et al. 2020, arXiv:2003.10152'),
}
# box AP, mask AP and frames a second by the source document on variants (S2), on COCO
S2 = {
    BASE: ('41.0', '37.1', '5.0'),
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
and shape.

Operations are multiply-adds of a prediction at 800x1333 (what MMDetection's `get_flops` calls FLOPs), of the convolutions
and matrix products that PyTorch's FlopCounterMode sees, with random weights: 1000 proposals, 100 instances. SOLOv2's find
no instance, so its prediction lacks what each costs: 0.02 G for each kernel above the threshold, and its pasting.

Training is a step's losses and gradients, prediction all up to the pasted masks; both are times relative to the base
recipe's model on one image of 256x427 with eight objects, in turns with it in one process: median (lowest to highest of the
rounds), {machine}.
Random weights propose other boxes in each model, so the mask heads see more or fewer of them: a difference under a fifth
says nothing. Recipes with the same model share a measurement: `python benchmarks/models.py`.
"""


def published_ap(entry: dict) -> list[str]:
    """Box and mask AP of an entry; ``-`` where none is published."""
    metrics = {name: value for result in entry.get('Results') or [] for name, value in result['Metrics'].items()}
    return [str(metrics.get(name, '-')) for name in ('box AP', 'mask AP')]


def frames_a_second(recipe: str, entries: dict) -> str:
    """Speed of MMDetection's 1x model of a recipe's network: that of the weights which we load is not published."""
    name = f'{recipe.removesuffix("_finetune")}_1x_coco'
    entry = next((entry for entry in entries.values() if entry['Name'] == name), {})
    times = entry.get('Metadata', {}).get('inference time (ms/im)')
    return f'{1000 / times[0]["value"]:.1f}' if times else '-'


def shapes(cfg: Config) -> torch.nn.Module:
    """The model of a recipe, with shapes alone."""
    with torch.device('meta'):
        return MODELS.build(cfg.model)


def ratio(values: list[float]) -> str:
    return f'{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})'


def cost(name: str, measured: dict) -> list[str]:
    """Operations, and times relative to the base; ``-`` what has not been measured."""
    row = measured['models'].get(measured['same_model_as'].get(name))
    if not row:
        return ['-', '-', '-']
    times = ['1', '1'] if measured['same_model_as'][name] == BASE else [ratio(row['training']), ratio(row['prediction'])]
    return [f'{row["multiply_adds"] / 1e9:.0f}', *times]


def start(cfg: Config, model: torch.nn.Module, entries: dict) -> list[str]:
    """The checkpoint, its published AP, and the tensors that it does not fill."""
    entry = entries.get(cfg.get('load_from'))
    if not entry:
        return ['-', '-', '-', '-']
    new = fresh_tensors(model, {'state_dict': shapes_of(entry)})
    return [entry['Name'], *published_ap(entry), f'{len(new)} of {len(model.state_dict())}']


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def index_entry(path: Path, model: torch.nn.Module, measured: dict, name: str) -> dict:
    """A recipe as OpenMMLab's model index has them; there are no weights of ours."""
    row = measured['models'].get(measured['same_model_as'].get(name))
    return {
        'Name': path.stem,
        'In Collection': FAMILIES[path.parent.name][0],
        'Config': path.relative_to(ROOT).as_posix(),
        'Metadata': {'Parameters': count(model), **({'FLOPs': round(row['multiply_adds'])} if row else {})},
    }


def s2_table(entries: dict) -> list[str]:
    lines = [
        "## S2's figures",
        '',
        '| recipe | S2: box AP | mask AP | frames a second | MMDetection: box AP | mask AP | frames a second |',
        '| --- | ---: | ---: | ---: | ---: | ---: | ---: |',
    ]
    for name, figures in S2.items():
        entry = entries.get(Config.fromfile(mmext.recipe(name)).load_from) if figures[0] != '-' else None
        theirs = [*published_ap(entry), frames_a_second(name, entries)] if entry else ['-', '-', '-']
        lines.append('| ' + ' | '.join([f'`{name}`', *figures, *theirs]) + ' |')
    return [
        *lines,
        '',
        "S2 calls its figures those of the 1x schedule. MMDetection's 1x model of R50 has 38.2 and 34.7; S2's 41.0 and 37.1",
        'are what a 3x multi-scale schedule gives, which is why our recipes start from those weights. Of its X101 the box',
        'AP is that of 32x8d and the mask AP near that of 64x4d. MMDetection publishes none of the ablations.',
        '',
        'Frames a second of MMDetection are those of the 1x model (the same network) on one V100 in FP32, batch 1 at',
        '800x1333. S2 names no hardware, size or batch, so its figures say at most how the backbones compare: R101 at 0.70',
        "and X101 at 0.56 of R50's rate by S2, at 0.84 and 0.50 by MMDetection.",
    ]


def main() -> int:
    register_all_modules(init_default_scope=True)
    entries, measured = published(), json.loads(MEASURED.read_text())
    threads = sorted({row['threads'] for row in measured['models'].values()})
    machine = f'{" or ".join(map(str, threads))} threads of a virtual server processor, PyTorch {torch.__version__}'
    lines, index = [HEAD.format(machine=machine)], []
    folders: dict[str, list[str]] = {}
    for name, path in mmext.recipes().items():
        folders.setdefault(path.parent.name, []).append(name)
    for folder, (family, source) in FAMILIES.items():
        lines += [
            f'## {family}',
            '',
            f'`configs/{folder}/`. Source: {source}.',
            '',
            '| recipe | parameters (M) | start | box AP | mask AP | new tensors | operations (G) | training | prediction |',
            '| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |',
        ]
        for name in folders[folder]:
            cfg = Config.fromfile(mmext.recipe(name))
            model = shapes(cfg)
            cells = [f'`{name}`', f'{count(model) / 1e6:.1f}', *start(cfg, model, entries), *cost(name, measured)]
            print(*cells, sep='  ', flush=True)
            lines.append('| ' + ' | '.join(cells) + ' |')
            index.append(index_entry(mmext.recipes()[name], model, measured, name))
        lines.append('')
    (ROOT / 'docs' / 'models.md').write_text('\n'.join([*lines, *s2_table(entries)]) + '\n')
    collections = [{'Name': family, 'Paper': {'Title': source}} for family, source in FAMILIES.values()]
    text = yaml.safe_dump({'Collections': collections, 'Models': index}, sort_keys=False, width=125)
    (ROOT / 'configs' / 'metafile.yml').write_text(f'# Written by `python tools/model_table.py`.\n{text}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
