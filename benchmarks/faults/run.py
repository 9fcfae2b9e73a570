"""Break trainings on purpose and print what happened: ``python benchmarks/faults/run.py [--kills 20] [--out FILE.json]``.

Every training is MMDetection's own script on made data with the demo's network, a process of its own, two at a time.
"""

import argparse
import hashlib
import io
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import mmdet
import torch
from mmengine.logging import HistoryBuffer
from rich.table import Table

import mmext
from mmext.console import console
from mmext.data.coco_file import read_coco
from mmext.data.demo import write_part
from mmext.hooks.resume import newest_whole_checkpoint
from mmext.safe_load import allow_mmengine_checkpoints

HERE = Path(__file__).parent
TRAIN = Path(mmdet.__file__).parent / '.mim' / 'tools' / 'train.py'
EPOCHS, BATCHES = 5, 3
MOMENTS = ('iteration', 'write', 'decided')
OTHER_MOMENTS = ('validation', 'pointer', 'iteration')


@dataclass(frozen=True)
class Outcome:
    """One fault: what was done, what happened, whether something was lost."""

    fault: str
    happened: str
    lost: str


def config_text(root: Path, data: Path, order: Path | None = None, hooks: str = '', more: str = '') -> str:
    return f"""
_base_ = {mmext.recipe('mask-rcnn_r18_fpn_finetune_differential-10x')!r}
custom_imports = dict(imports=['mmext.registry', 'fault_hooks'], allow_failed_imports=False)
train_dataloader = dict(dataset=dict(data_root={str(data)!r}))
val_dataloader = dict(dataset=dict(data_root={str(data)!r}))
val_evaluator = dict(ann_file={str(data / 'val' / 'annotations.json')!r})
train_cfg = dict(max_epochs={EPOCHS}, val_interval=1)
param_scheduler = [
    dict(type='mmext.WarmupShareLR', share=0.2, start_factor=0.001, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min_ratio=0.01, by_epoch=True, convert_to_iter_based=True),
    dict(type='ReduceOnPlateauLR', monitor='coco/bbox_mAP', rule='greater', patience=0, factor=0.5, threshold=10.0)]
default_hooks = dict(
    logger=dict(interval=1),
    checkpoint=dict(save_best='coco/bbox_mAP_50', rule='greater', max_keep_ckpts=3),
    {f"order=dict(type='OrderHook', file={str(order)!r})," if order else ''}
    {hooks})
custom_hooks = [dict(type='EarlyStoppingHook', monitor='coco/bbox_mAP', rule='greater', patience=50, min_delta=0)]
work_dir = {str(root / 'run')!r}
{more}
"""


def train(root: Path, text: str, *arguments: str, file_limit: int | None = None) -> subprocess.CompletedProcess:
    """Start MMDetection's training in ``root`` with a config of that text."""
    root.mkdir(parents=True, exist_ok=True)
    config = root / 'config.py'
    config.write_text(text)
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(HERE)}
    limit = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))) if file_limit else None
    done = subprocess.run(
        [sys.executable, TRAIN, config, *arguments],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=limit,
    )
    with (root / 'console.txt').open('a') as file:
        file.write(done.stdout)
    return done


def load(path: Path) -> dict:
    allow_mmengine_checkpoints()
    return torch.load(path, map_location='cpu', weights_only=True)


def checksum(path: Path) -> str:
    """Of weights, momentum, rates, schedulers and random numbers in a checkpoint; not of times and paths."""
    checkpoint = load(path)
    digest = hashlib.sha256()

    def add(value: object) -> None:
        if isinstance(value, torch.Tensor):
            digest.update(value.contiguous().numpy().tobytes())
        elif isinstance(value, dict):
            for key in value:
                digest.update(str(key).encode())
                add(value[key])
        elif isinstance(value, (list, tuple)):
            for item in value:
                add(item)
        else:
            digest.update(repr(value).encode())

    for key in ('state_dict', 'optimizer', 'param_schedulers', 'mmext'):
        add(checkpoint[key])
    return digest.hexdigest()[:16]


def order_of(file: Path) -> dict[tuple[int, int], list[int]]:
    """Image ids by epoch and batch; raises when one batch was read twice with different images."""
    found: dict[tuple[int, int], list[int]] = {}
    for line in file.read_text().splitlines():
        epoch, batch, ids = json.loads(line)
        if found.setdefault((epoch, batch), ids) != ids:
            raise SystemExit(f'{file}: batch {batch} of epoch {epoch} had images {found[epoch, batch]}, later {ids}')
    return found


def words(done: subprocess.CompletedProcess, *needles: str) -> str:
    """First line of the output with one of the needles, without its time stamp."""
    lines = (line for line in done.stdout.splitlines() if any(needle in line for needle in needles))
    return next(lines, 'NOTHING WAS SAID').split(' - ')[-1].strip()


def chain(folder: Path, data: Path, seed: int, kills: int) -> tuple[list[dict], dict]:
    """Train once undisturbed and once killed ``kills`` times, each time resumed; records of the kills, and a comparison."""
    rng = random.Random(seed)
    fixed = f'randomness = dict(seed={seed})'
    calm, killed = folder / f'calm{seed}', folder / f'killed{seed}'
    done = train(calm, config_text(calm, data, calm / 'order.txt', more=fixed))
    if done.returncode:
        raise SystemExit(done.stdout)
    moments = [*MOMENTS, *rng.choices(OTHER_MOMENTS, k=max(kills - len(MOMENTS), 0))][:kills]
    rng.shuffle(moments)
    records = []
    for number, moment in enumerate(moments):
        pointer = killed / 'run' / 'last_checkpoint'
        finished = int(Path(pointer.read_text()).stem.split('_')[1]) if pointer.exists() else 0
        # an epoch is left for each kill that is to come
        epoch = min(finished + rng.choice((1, 2)), EPOCHS - (len(moments) - number - 1))
        step, delay = rng.randrange(BATCHES), round(rng.uniform(0, 0.8), 3)
        if moment == 'write':
            epoch, step = rng.choice((1, 2)), rng.randrange(20)
        hook = f"fault=dict(type='KillHook', moment={moment!r}, epoch={epoch}, step={step}, delay={delay}),"
        text = config_text(killed, data, killed / 'order.txt', hook, fixed)
        done = train(killed, text, *(['--resume'] if finished else []))
        before, _ = newest_whole_checkpoint(killed / 'run')
        records.append(
            {'seed': seed, 'number': number, 'moment': moment, 'epoch': epoch, 'step': step, 'delay': delay,
             'exit': done.returncode, 'resumed_from': finished, 'newest_after': before and before.name}
        )  # fmt: skip
    done = train(killed, config_text(killed, data, killed / 'order.txt', more=fixed), '--resume')
    if done.returncode:
        raise SystemExit(done.stdout)
    last = f'epoch_{EPOCHS}.pth'
    return records, {
        'seed': seed,
        'calm': checksum(calm / 'run' / last),
        'killed': checksum(killed / 'run' / last),
        'same_order': order_of(calm / 'order.txt') == order_of(killed / 'order.txt'),
        'reductions': load(calm / 'run' / last)['param_schedulers'][-1]['num_bad_epochs'],
    }


def without_seed(folder: Path, data: Path) -> Outcome:
    """randomness.seed unset: a copy of the folder as it was after epoch 2, resumed, against the run that went on."""
    calm, resumed = folder / 'unset', folder / 'unset_resumed'
    text = config_text(calm, data, calm / 'order.txt', hooks='', more='randomness = dict(seed=None)')
    text = text.replace('max_keep_ckpts=3', 'max_keep_ckpts=-1')
    train(calm, text)
    (resumed / 'run').mkdir(parents=True)
    for name in ('epoch_1.pth', 'epoch_2.pth'):
        shutil.copy(calm / 'run' / name, resumed / 'run')
    (resumed / 'run' / 'last_checkpoint').write_text(str(calm / 'run' / 'epoch_2.pth'))  # of the folder before it moved
    done = train(resumed, text.replace(str(calm), str(resumed)), '--resume')
    before, after = order_of(calm / 'order.txt'), order_of(resumed / 'order.txt')
    same = all(after[key] == before[key] for key in after) and len(after) == (EPOCHS - 2) * BATCHES
    last = f'epoch_{EPOCHS}.pth'
    equal = checksum(calm / 'run' / last) == checksum(resumed / 'run' / last)
    return Outcome(
        'no seed set, folder copied after epoch 2, resumed',
        f'{words(done, "the file of this name")} image ids per batch {"the same" if same else "DIFFERENT"}, '
        f'checksum {"the same" if equal else "DIFFERENT"}',
        'nothing' if same and equal else 'YES',
    )


def truncated(folder: Path, data: Path, calm: Path) -> Outcome:
    root = folder / 'truncated'
    shutil.copytree(calm / 'run', root / 'run')
    last = root / 'run' / f'epoch_{EPOCHS}.pth'
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    done = train(root, config_text(root, data, more='randomness = dict(seed=0)'), '--resume')
    same = done.returncode == 0 and checksum(last) == checksum(calm / 'run' / last.name)
    return Outcome(
        'newest file cut to half its length',
        f'{words(done, "is damaged")} {words(done, "The one before")} Epoch {EPOCHS} trained again, checksum '
        f'{"the same" if same else "DIFFERENT"}',
        'nothing' if same else 'YES',
    )


def disk_full(folder: Path, data: Path, policy: str) -> Outcome:
    root = folder / f'full_{policy}'
    text = config_text(root, data, more='randomness = dict(seed=0)').replace('max_epochs=5', 'max_epochs=1')
    train(root, text)
    before = checksum(root / 'run' / 'epoch_1.pth')
    text = text.replace('max_epochs=1', 'max_epochs=2').replace('max_keep', f"on_write_error='{policy}', max_keep")
    done = train(root, text, '--resume', file_limit=2_000_000)
    kept = (root / 'run' / 'epoch_1.pth').exists() and checksum(root / 'run' / 'epoch_1.pth') == before
    left = [path.name for path in (root / 'run').glob('*.unfinished')]
    again = train(root, text, '--resume')
    fine = kept and not left and again.returncode == 0 and (root / 'run' / 'epoch_2.pth').exists()
    return Outcome(
        f'disk full (RLIMIT_FSIZE), on_write_error={policy}',
        f'exit {done.returncode}: {words(done, "could not be written")} With space again: epoch 2 '
        f'{"trained and saved" if fine else "NOT saved"}',
        'nothing' if fine else 'YES',
    )


def not_a_number(folder: Path, data: Path, loss: str, module: str, policy: str) -> Outcome:
    root = folder / f'nan_{loss}_{policy}'
    hook = f"fault=dict(type='NaNHook', module={module!r}, iteration=5), loss_guard=dict(policy={policy!r}),"
    text = config_text(root, data, hooks=hook, more='randomness = dict(seed=0)').replace('max_epochs=5', 'max_epochs=2')
    done = train(root, text)
    record = json.loads((root / 'run' / 'loss_guard' / 'iter_5.json').read_text())
    if policy == 'stop':
        state = load(root / 'run' / 'loss_guard' / 'before_iter_5.pth')
        fine = done.returncode != 0 and loss in done.stdout
        evidence = f'{len(record["images"])} images and the state before the step written'
    else:
        state = load(root / 'run' / 'epoch_2.pth')
        fine = done.returncode == 0
        evidence = 'Training went on'
    finite = all(bool(torch.isfinite(value).all()) for value in state['state_dict'].values())
    return Outcome(
        f'NaN in {loss}, policy={policy}',
        f'exit {done.returncode}: {words(done, "is nan")} {evidence}; weights {"finite" if finite else "NOT FINITE"}',
        'nothing' if fine and finite else 'YES',
    )


def no_instances(folder: Path, data: Path) -> Outcome:
    root, mine = folder / 'empty', folder / 'data_empty'
    shutil.copytree(data, mine)
    file = mine / 'train' / 'annotations.json'
    document = json.loads(file.read_text())
    empty = {image['id'] for image in document['images'][:8]}
    document['annotations'] = [a for a in document['annotations'] if a['image_id'] not in empty]
    file.write_text(json.dumps(document))
    loader = f'train_dataloader = dict(batch_size=1, dataset=dict(data_root={str(mine)!r}, '
    more = f'{loader}filter_cfg=dict(filter_empty_gt=False)))\nrandomness = dict(seed=1)'
    text = config_text(root, mine).replace('max_epochs=5', 'max_epochs=1')
    text = text.replace(f'train_dataloader = dict(dataset=dict(data_root={str(mine)!r}))', more)
    done = train(root, text)
    fine = done.returncode == 0 and '8 of 12 batches' in done.stdout
    return Outcome('8 of 12 batches without an instance', words(done, 'no positive RoI'), 'nothing' if fine else 'YES')


def image_missing(folder: Path, data: Path) -> Outcome:
    root, mine = folder / 'missing', folder / 'data_missing'
    shutil.copytree(data, mine)
    image = mine / 'train' / read_coco(mine / 'train' / 'annotations.json').images[0]['file_name']
    order = root / 'order.txt'
    hook = f"fault=dict(type='LoseFileHook', file={str(image)!r}, epoch=2),"
    text = config_text(root, mine, order, hook, 'randomness = dict(seed=2)').replace('max_epochs=5', 'max_epochs=2')
    done = train(root, text)
    newest, _ = newest_whole_checkpoint(root / 'run')
    shutil.copy(data / 'train' / image.name, image)
    again = train(root, text.replace(hook, ''), '--resume')
    order_of(order)
    fine = done.returncode != 0 and newest.name == 'epoch_1.pth' and again.returncode == 0
    return Outcome(
        'an image deleted in epoch 2',
        f'exit {done.returncode}: {words(done, "FileNotFoundError")}; file put back, --resume went on after {newest.name} '
        'with the same batches',
        'nothing' if fine else 'YES',
    )


class Reduced:
    """Pickles as a call, of a function or of what another call gives."""

    def __init__(self, function, *arguments):
        self.recipe = (function, arguments)

    def __call__(self, *arguments):
        raise NotImplementedError  # pickle asks that what it calls is callable

    def __reduce__(self):
        return self.recipe


def reach_exec() -> Reduced:
    """From a method that a checkpoint may name, by getattr alone, to builtins.exec."""
    module = Reduced(getattr, Reduced(getattr, HistoryBuffer, 'mean'), '__globals__')
    builtins = Reduced(Reduced(getattr, module, '__getitem__'), '__builtins__')
    return Reduced(Reduced(getattr, builtins, '__getitem__'), 'exec')


def malicious(folder: Path, data: Path, name: str) -> Outcome:
    root = folder / f'malicious_{name}'
    root.mkdir()
    mark = root / 'was_run'
    run_it = f'open({str(mark)!r}, "w").close()'
    if name == 'foreign_call':
        hub = Reduced(os.system, f'touch {mark}')
    else:
        statistic = {
            'getattr_to_exec': Reduced(reach_exec(), run_it),
            'class_statistics': Reduced(getattr, HistoryBuffer, 'min'),
        }[name]
        arrays = {'max_length': 1, '_log_history': [], '_count_history': [], 'statistics_methods': {'mean': statistic}}
        plain = HistoryBuffer.__getstate__
        HistoryBuffer.__getstate__ = lambda self: arrays
        hub = HistoryBuffer()
    file = io.BytesIO()
    torch.save({'meta': {}, 'state_dict': {}, 'message_hub': hub}, file)
    if name != 'foreign_call':
        HistoryBuffer.__getstate__ = plain
    crafted = root / 'crafted.pth'
    crafted.write_bytes(file.getvalue())
    done = train(root, config_text(root, data, more=f'load_from = {str(crafted)!r}'))
    fine = done.returncode != 0 and not mark.exists()
    said = words(done, 'checkpoint refused', 'unsupported GLOBAL')
    return Outcome(
        f'malicious checkpoint: {name}', f'exit {done.returncode}: {said[:150]}', 'nothing ran' if fine else 'YES'
    )


def resumed_with(folder: Path, data: Path, title: str, before: str, after: str) -> Outcome:
    """Train an epoch, resume with other rates; the momentum must be what it was, the rates what the config says."""
    root = folder / title.replace(' ', '_').replace(',', '')
    text = config_text(root, data, more='randomness = dict(seed=0)').replace('max_epochs=5', 'max_epochs=1')
    first = train(root, text + before)
    if first.returncode:
        raise SystemExit(first.stdout)
    text = text.replace('max_epochs=1', 'max_epochs=2')
    done = train(root, text + after, '--resume')
    row = re.search(r'mask_head +│ +([-.e\d]+) +│ +([-.e\d]+) +│ +\d+ +│ +\d+ │', done.stdout)
    rates = f' mask_head {row[1]} -> {row[2]}.' if row else ' NO RATES SHOWN'
    fine = row and '87 of 87 tensors' in done.stdout and not done.returncode
    return Outcome(title, f'exit {done.returncode}: {words(done, "found by name")}{rates}', 'nothing' if fine else 'YES')


def stock_168(folder: Path, data: Path) -> Outcome:
    """MMDetection's own R50 recipe with custom_keys for one epoch, then ours resumes it."""
    root = folder / 'stock'
    small = f"""
train_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(128, 128), keep_ratio=True), dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')]
meta = dict(classes=('Fiber', 'Fragment', 'Film'))
train_dataloader = dict(batch_size=6, num_workers=0, persistent_workers=False, dataset=dict(data_root={str(data)!r},
    ann_file='train/annotations.json', data_prefix=dict(img='train/'), metainfo=meta, pipeline=train_pipeline))
val_dataloader, val_evaluator, val_cfg = None, None, None
model = dict(backbone=dict(init_cfg=None), train_cfg=dict(rpn_proposal=dict(nms_pre=50, max_per_img=50),
    rcnn=dict(sampler=dict(num=16))), roi_head=dict(bbox_head=dict(num_classes=3), mask_head=dict(num_classes=3)))
default_hooks = dict(checkpoint=dict(save_best=None), logger=dict(interval=1))
load_from = None
work_dir = {str(root / 'run')!r}
"""
    stock = "_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'\ntrain_cfg = dict(max_epochs=1)\n" + small
    stock += 'optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(roi_head=dict(lr_mult=10))))\n'
    first = train(root, stock)
    if first.returncode:
        raise SystemExit(first.stdout)
    saved = load(root / 'run' / 'epoch_1.pth')['optimizer']
    ours = (
        f'_base_ = {mmext.recipe("mask-rcnn_r50_fpn_finetune_differential-10x")!r}\ntrain_cfg = dict(max_epochs=2)\n' + small
    )
    done = train(root, ours, '--resume')
    momentum = [state['momentum_buffer'] for state in saved['state'].values()]
    fine = done.returncode == 0 and f'{len(momentum)} of {len(momentum)} tensors' in done.stdout
    return Outcome(
        f'stock MMDetection run with {len(saved["param_groups"])} groups, resumed by ours',
        f'exit {done.returncode}: {words(done, "found by name")}',
        'nothing' if fine else 'YES',
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=20, help='kills in all, four in each chain (default 20)')
    parser.add_argument('--out', type=Path, help='write the records as JSON')
    parser.add_argument('--keep', type=Path, help='work in this folder and keep it')
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix='mmext_faults_'))
    data = folder / 'data'
    for number, (part, images) in enumerate((('train', 12), ('val', 4))):
        list(write_part(data / part, images, (0, number)))
    key = 'optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict('
    with ThreadPoolExecutor(2) as pool:
        chains = [pool.submit(chain, folder, data, seed, 4) for seed in range(options.kills // 4)]
        records, comparisons = [], []
        for future in chains:
            kills, comparison = future.result()
            records += kills
            comparisons.append(comparison)
            print(
                f'seed {comparison["seed"]}: {comparison["calm"]} undisturbed, {comparison["killed"]} killed 4 times',
                flush=True,
            )
        jobs = [
            pool.submit(without_seed, folder, data),
            pool.submit(truncated, folder, data, folder / 'calm0'),
            pool.submit(disk_full, folder, data, 'continue'),
            pool.submit(disk_full, folder, data, 'stop'),
            pool.submit(not_a_number, folder, data, 'loss_bbox', 'roi_head.bbox_head.loss_bbox', 'stop'),
            pool.submit(not_a_number, folder, data, 'loss_mask', 'roi_head.mask_head.loss_mask', 'stop'),
            pool.submit(not_a_number, folder, data, 'loss_mask', 'roi_head.mask_head.loss_mask', 'skip'),
            pool.submit(not_a_number, folder, data, 'loss_bbox', 'roi_head.bbox_head.loss_bbox', 'reduce'),
            pool.submit(no_instances, folder, data),
            pool.submit(image_missing, folder, data),
            *(pool.submit(malicious, folder, data, n) for n in ('foreign_call', 'getattr_to_exec', 'class_statistics')),
            pool.submit(stock_168, folder, data),
            pool.submit(
                resumed_with, folder, data, 'resumed with other multipliers', '', f'{key}roi_head=dict(lr_mult=15))))'
            ),
            pool.submit(
                resumed_with,
                folder,
                data,
                'resumed with other keys',
                '',
                f'{key}_delete_=True, mask_head=dict(lr_mult=3))))',
            ),
        ]
        outcomes = [future.result() for future in jobs]
    same = sum(c['calm'] == c['killed'] and c['same_order'] for c in comparisons)
    each = ', '.join(f'{sum(r["moment"] == m for r in records)} {m}' for m in dict.fromkeys(r['moment'] for r in records))
    died = sum(record['exit'] == -9 for record in records)
    kills = Outcome(
        f'{died} SIGKILLs ({each})',
        f'{same} of {len(comparisons)} runs equal the undisturbed one: weights, momentum, rates, schedulers (plateau on), '
        'random numbers by checksum, image ids of every batch',
        'nothing' if same == len(comparisons) and died == len(records) else 'YES',
    )
    table = Table(title='Fault and what happened', title_justify='left', show_lines=True)
    for heading in ('fault', 'what happened', 'lost'):
        table.add_column(heading)
    outcomes = [Outcome(o.fault, o.happened.replace(f'{folder}/', ''), o.lost) for o in (kills, *outcomes)]
    for outcome in outcomes:
        table.add_row(*asdict(outcome).values())
    console().print(table)
    if options.out:
        facts = {'kills': records, 'comparisons': comparisons, 'outcomes': [asdict(outcome) for outcome in outcomes]}
        options.out.write_text(json.dumps(facts, indent=2) + '\n')
    if not options.keep:
        shutil.rmtree(folder)
    return int(any(outcome.lost == 'YES' for outcome in outcomes))


if __name__ == '__main__':
    sys.exit(main())
