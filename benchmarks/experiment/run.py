"""Run the experiment of docs/experiment.md, or go on with it.

    python benchmarks/experiment/run.py --jobs 2 --droplets FOLDER
    python benchmarks/experiment/report.py

Each run is a `mim train mmdet` process of its own, on one thread where there are as many cores as jobs, and leaves a small
JSON file in results/. What has one is not run again; what was broken off, by whatever, goes on from its last checkpoint.
First come the runs that choose the uniform rate of each cell, then the counted ones. FOLDER of the droplets has train/,
val/, annotations/train.json and annotations/val.json; without it that cell is left out.

``--rehearse`` trains each setting for two epochs on eight images, apart from everything. ``--check`` trains nothing, and
holds the parameter groups of each setting, as `mmext groups --json` gives them, against its claim.

`mmext sweep` gives every combination of values of single keys. Here a setting changes several keys at once, each seed has
images of its own, and the last checkpoint is tested: so its functions are used, with the runs of cells.py.
"""

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cells
import torch
from cells import BEST, CELLS, LOW, RATES, RECIPE, TUNED, Cell, Run, counted_runs, options_of, rehearsal, tuning_runs
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.runner import Runner
from records import RESULTS, Record, best_rate, missing, path_of, read_records, write_record

import mmext
from mmext.analysis.runs import read_run
from mmext.data.demo import write_part
from mmext.errors import InputError
from mmext.optim.group_report import load_config, report
from mmext.optim.param_groups import matching_key, part_of
from mmext.sweep import Job, Plan, command, config_text, is_finished, is_training, run_jobs, slots_of

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
FOLDERS = (ROOT / 'work_dirs/experiment', RESULTS)
# nothing of a rehearsal lies where a counted run looks
REHEARSAL_FOLDERS = (ROOT / 'work_dirs/experiment-rehearsal', ROOT / 'work_dirs/experiment-rehearsal/results')


# ---- data


@dataclass(frozen=True)
class Part:
    """A COCO file and the folder of its images."""

    annotations: Path
    images: Path


def subset(source: Path, target: Path, keep: Callable[[Mapping], bool]) -> None:
    """Copy a COCO file with some of its images."""
    document = json.loads(source.read_text())
    document['images'] = [image for image in document['images'] if keep(image)]
    ids = {image['id'] for image in document['images']}
    document['annotations'] = [one for one in document['annotations'] if one['image_id'] in ids]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(document))


def train_file(run: Run) -> str:
    if run.setting.noise:
        return f'noise_{run.setting.noise * 100:g}.json'
    return 'annotations.json' if run.cell.images == 60 else f'first_{run.cell.images}.json'


def parts_of(run: Run, data: Path, droplets: Path | None) -> tuple[Part, Part, Part]:
    """What a run is trained, validated and tested on. Data of `mmext demo-data --seed`: of the run's seed, 20 and 30."""
    if run.cell.droplets:
        train, test = (Part(droplets / f'annotations/{name}.json', droplets / name) for name in ('train', 'val'))
        if run.is_tuning:
            own = [Part(data / f'droplets/{name}.json', droplets / 'train') for name in ('train', 'val')]
            return own[0], own[1], test
        return train, test, test  # nothing is chosen by the curve
    train, validation, test = data / f'train-{run.seed}', data / 'validation', data / 'test'
    return (
        Part(train / train_file(run), train),
        Part(validation / f'first_{run.validation_images}.json', validation),
        Part(test / f'first_{run.cell.test_images}.json', test),
    )


def write_data(runs: Sequence[Run], data: Path, droplets: Path | None) -> None:
    """Write the parts of runs that are not there yet."""
    sys.path.append(str(HERE.parent))  # where benchmarks/variants.py has it from
    from flipped_targets import flip_annotations

    def made(folder: Path, images: int, seed: Sequence[int]) -> None:
        if not (folder / 'annotations.json').exists():
            list(write_part(folder, images, seed))

    made(data / 'validation', cells.VALIDATION_IMAGES, (cells.VALIDATION_SEED, 1))
    made(data / 'test', cells.CORE_TEST_IMAGES, (cells.TEST_SEED, 1))
    for run in runs:
        train, validation, test = parts_of(run, data, droplets)
        if run.cell.droplets:
            for name in ('train', 'val') if run.is_tuning else ():
                held_out = name == 'val'
                subset(
                    droplets / 'annotations/train.json',
                    data / f'droplets/{name}.json',
                    lambda image, held_out=held_out: image['file_name'].startswith(cells.VALIDATION_VIDEOS) == held_out,
                )
            continue
        made(train.images, 60, (run.seed, 0))
        if run.setting.noise and not train.annotations.exists():
            flip_annotations(train.images / 'annotations.json', train.annotations, run.setting.noise, run.seed)
        firsts = (train, run.cell.images), (validation, run.validation_images), (test, run.cell.test_images)
        for part, images in firsts:
            if not part.annotations.exists():
                source = part.images / 'annotations.json'
                subset(source, part.annotations, lambda image, images=images: image['id'] <= images)


def source_checkpoint(cell: Cell, data: Path) -> Path:
    """The shipped source model, without the tensors that a cell wants fresh."""
    whole = Path(load_config(RECIPE).load_from)
    if not cell.removed:
        return whole
    path = data / f'source-{cell.name}.pth'
    if not path.exists():
        state = torch.load(whole, map_location='cpu', weights_only=True)['state_dict']
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({'state_dict': {name: one for name, one in state.items() if not name.startswith(cell.removed)}}, path)
    return path


# ---- runs


@dataclass(frozen=True)
class Place:
    """Where the runs, their data and their results lie, and which cells there are."""

    folder: Path
    results: Path
    droplets: Path | None
    chosen: tuple[Cell, ...]

    @property
    def data(self) -> Path:
        return self.folder / 'data'

    def job(self, run: Run, rate: float | None = None) -> Job:
        options = options_of(run, rate) | {'load_from': str(source_checkpoint(run.cell, self.data))}
        train, validation, _ = parts_of(run, self.data, self.droplets)
        for name, part in (('train', train), ('val', validation)):
            dataset = f'{name}_dataloader.dataset'
            options |= {f'{dataset}.ann_file': str(part.annotations), f'{dataset}.data_prefix.img': f'{part.images}/'}
        options['val_evaluator'] = evaluators(validation)
        return Job(run.name, options, self.folder / 'configs' / f'{run.name}.py', self.folder / run.name)


def evaluators(part: Part) -> list[dict]:
    coco = {'type': 'mmext.CocoMetric', 'ann_file': str(part.annotations), 'metric': ['bbox', 'segm']}
    return [coco, {'type': 'mmext.MaskQualityMetric'}]


def run_all(runs: Sequence[Run], place: Place, slots: Sequence[Mapping[str, str]], own: Sequence[str]) -> list[str]:
    """Train and record what has no record, and say what became of the rest.

    Args:
        own: arguments of this program by which a run's process finds it.
    """
    left = missing(runs, read_records(place.results))
    print(f'{len(left)} of {len(runs)} runs to go.', flush=True)
    if not left:
        return []
    write_data(left, place.data, place.droplets)
    known = read_records(place.results)
    jobs = [place.job(run, best_rate(known, run.cell)) for run in left]
    Plan(load_config(RECIPE), tuple(jobs), place.folder).write()

    def recording(job: Job) -> list[str]:
        return [sys.executable, str(Path(__file__).resolve()), *own, '--record', job.name]

    def both(job: Job, resume: bool) -> list[str]:
        # a training that diverges ends with an error, and is recorded, too
        return ['bash', '-c', f'{shlex.join(command(job, resume))}; {shlex.join(recording(job))}']

    trained = [(run, job) for run, job in zip(left, jobs, strict=True) if is_finished(job)]
    for number, (run, job) in enumerate(trained, 1):
        while is_training(job):  # of an earlier start, which is recording it
            time.sleep(1)
        if path_of(run, place.results).exists():
            continue
        if any(job.work_dir.glob('epoch_*.pth')):  # killed between the training and its record
            print(f'{job.name}: is trained, and is tested now. {number} of {len(trained)}.', flush=True)
            subprocess.run(recording(job), check=False)
        else:  # somebody has removed its record, to have it made anew
            shutil.rmtree(job.work_dir)
    problems = run_jobs(jobs, slots, lambda line: print(line, flush=True), make_command=both)
    lost = {run.name for run in missing(left, read_records(place.results))}
    told = {line.partition(':')[0]: line for line in problems}
    return [told.get(name, f'{name}: has no record') for name in sorted(lost)]


# ---- a run's record


def test(job: Job, part: Part) -> dict[str, float]:
    """Metrics of a run's last checkpoint on the test part."""
    cfg = Config.fromfile(job.config)
    checkpoint = Path((job.work_dir / 'last_checkpoint').read_text().strip()).name
    cfg.load_from, cfg.log_level, cfg.resume = str(job.work_dir / checkpoint), 'ERROR', False
    cfg.test_dataloader = cfg.val_dataloader
    cfg.test_dataloader.dataset.ann_file = str(part.annotations)
    cfg.test_dataloader.dataset.data_prefix.img = f'{part.images}/'
    cfg.test_evaluator = evaluators(part)
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        return Runner.from_cfg(cfg).test()


def rounded(metrics: Mapping[str, object]) -> dict[str, float]:
    return {
        name: round(float(value), 5)
        for name, value in metrics.items()
        if name.startswith(('coco/', 'mask/')) and isinstance(value, (int, float))
    }


def record_of(run: Run, place: Place) -> Record | None:
    """What a run that has ended leaves; None of one that was broken off."""
    job = place.job(run)
    found = read_run(job.work_dir)
    if found.end is None and not found.faults:
        return None
    part = parts_of(run, place.data, place.droplets)[2]
    diverged = found.end is None
    times = sorted(line['time'] for line in found.train if 'time' in line)
    columns = {'iteration': 'step', 'loss': 'loss', 'share_mask': 'share_mask'}
    return Record(
        cell=run.cell.name,
        setting=run.setting.name,
        seed=run.seed,
        diverged=diverged,
        iterations=max((int(line['step']) for line in found.train), default=0),
        groups=tuple(
            {'name': row['name'], 'lr': row['lr'], 'multiplier': row['multiplier']}
            | {'tensors': row['trainable_tensors'], 'fresh': row['fresh']}
            for row in found.groups
        ),
        curve=tuple({'iteration': int(line['step']), **rounded(line)} for line in found.val),
        log={
            name: [round(line[key], 5) if line.get(key) is not None else None for line in found.train]
            for name, key in columns.items()
        },
        test={} if diverged or run.is_tuning else rounded(test(job, part)),
        test_images=0 if diverged or run.is_tuning else run.cell.test_images,
        seconds_per_iteration=round(times[len(times) // 2], 3) if times else None,
        versions={'mmext': mmext.__version__, 'torch': torch.__version__},
    )


def write_one(name: str, place: Place, keep: bool) -> int:
    """Record the run of a name, and remove its checkpoints."""
    run = next(run for run in [*tuning_runs(place.chosen), *counted_runs(place.chosen)] if run.name == name)
    record = record_of(run, place)
    if record is None:
        print(f'{name} was broken off: there is nothing to record yet.')
        return 1
    write_record(record, path_of(run, place.results))
    for checkpoint in place.job(run).work_dir.glob('*.pth') if not keep else ():
        checkpoint.unlink()
    return 0


# ---- does each setting train what it claims?


def claimed_rate(tensor: str, run: Run, rate: float) -> float:
    """The rate that docs/experiment.md has for a tensor; written apart from the options that are to give it."""
    name, part = run.setting.name, part_of(tensor)
    head = part in ('bbox_head', 'mask_head')
    if name in TUNED or run.is_tuning:
        multiple = (1, 1) if run.cell.tuned == BEST else (10, 5)
        return rate * (multiple[0] if head else multiple[1] if part == 'rpn_head' else 1)
    if name.startswith('uniform-'):
        return LOW if 'low' in name else float(name.rpartition('-')[2])
    if name in ('backbone-tenth', 'staged'):
        return 1e-3 if head else 2e-4 if part == 'rpn_head' else 1e-4
    if name == 'fresh-10x':
        return 10 * LOW if matching_key(tensor, run.cell.fresh) else LOW
    multiple = re.match(r'differential-(\d+)x(?:-(.+))?$', name)
    base = float(multiple[2] or LOW) if multiple else LOW
    return base * (float(multiple[1] if multiple else 10) if head else 5 if part == 'rpn_head' else 1)


def check(run: Run, place: Place, rate: float) -> str:
    """Hold the groups of a run, as `mmext groups --json` writes them, against its claim; what it has, in a line.

    Raises:
        InputError: tensors have other rates, or other tensors are fresh than the cell says.
    """
    job = place.job(run, rate)
    with tempfile.TemporaryDirectory() as folder:
        config, file = Path(folder, 'config.py'), Path(folder, 'groups.json')
        config.write_text(config_text(load_config(RECIPE), job))
        report(str(config), [], False, None).write(file)
        groups = json.loads(file.read_text())['groups']
        model = MODELS.build(Config.fromfile(config).model)
    names = [name for name, _ in model.named_parameters()]
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    claimed = Counter(round(claimed_rate(name, run, rate), 9) for name in trained)
    there = Counter()
    for group in groups:
        there[round(group['lr'] or 0, 9)] += group['trainable_tensors']
    wrong = [] if +there == claimed else [f'tensors by rate are {dict(there)}, claimed are {dict(claimed)}']
    wrong += [
        f'{name} has {group["lr"]:g}, claimed is {claimed_rate(name, run, rate):g}'
        for group in groups
        for name in group['fresh']
        if round(group['lr'], 9) != round(claimed_rate(name, run, rate), 9)
    ]
    fresh = {name for group in groups for name in group['fresh']}
    expected = {name for name in names if 'roi_head' in name and matching_key(name, run.cell.fresh)}
    wrong += [f'{name} is fresh, or to be fresh, and not both' for name in sorted(fresh ^ expected)]
    if wrong:
        raise InputError(f'{run.name}: {"; ".join(wrong)}.')
    rates = ', '.join(f'{group["name"]} {group["lr"]:g}' for group in groups if group['lr'] is not None)
    return f'{run.cell.name}, {run.setting.name}: {len(fresh)} fresh, {len(trained)} trained tensors; {rates}'


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--cells', nargs='+', choices=[cell.name for cell in CELLS], help='only these')
    parser.add_argument('--droplets', type=Path, metavar='FOLDER', help='of the droplets cell')
    parser.add_argument('--jobs', type=int, help='runs at the same time, on the CPU')
    parser.add_argument('--devices', help='0,1: GPUs, a run on each')
    parser.add_argument('--rehearse', action='store_true', help='each setting once, tiny, apart from everything')
    parser.add_argument('--check', action='store_true', help='hold parameter groups against what is claimed')
    parser.add_argument('--keep-checkpoints', action='store_true')
    parser.add_argument('--record', metavar='RUN', help='write the result of a run that has ended; it is called by itself')
    options = parser.parse_args()
    droplets = options.droplets.resolve() if options.droplets else None
    chosen = [cell for cell in CELLS if cell.name in (options.cells or [cell.name])]
    if droplets is None and any(cell.droplets for cell in chosen):
        print('The droplets cell is left out: --droplets FOLDER has its images.', flush=True)
        chosen = [cell for cell in chosen if not cell.droplets]
    folder, results = REHEARSAL_FOLDERS if options.rehearse else FOLDERS
    place = Place(folder, results, droplets, tuple(rehearsal(chosen) if options.rehearse else chosen))
    if options.record:
        return write_one(options.record, place, options.keep_checkpoints)
    if options.check:
        for cell in place.chosen:
            for setting in cell.settings:
                print(check(Run(cell, setting, cell.seeds[0]), place, RATES[-1]), flush=True)
        return 0
    own = ['--cells', *(cell.name for cell in chosen)]
    own += [
        word for word, given in (('--rehearse', options.rehearse), ('--keep-checkpoints', options.keep_checkpoints)) if given
    ]
    own += ['--droplets', str(droplets)] if droplets else []
    slots = slots_of(options.devices, options.jobs)
    problems = run_all(tuning_runs(place.chosen), place, slots, own)
    records = read_records(results)
    rates = {cell.name: best_rate(records, cell) for cell in place.chosen if cell.tuning}
    for name, rate in rates.items():
        words = f'the best base rate is {rate:g}' if rate else 'a run that chooses the base rate is missing'
        print(f'{name}: {words}.', flush=True)
    if rates.get('core') == RATES[-1] and not options.rehearse:
        rates['core'] = None
        problems.append('core: the best rate is the highest that was tried. Add one to RATES; uniform-best waits for it.')
    ready = [run for run in counted_runs(place.chosen) if run.setting.name not in TUNED or rates[run.cell.name]]
    problems += run_all(ready, place, slots, own)
    for line in problems:
        print(line, file=sys.stderr)
    return 1 if problems else 0


if __name__ == '__main__':
    try:
        sys.exit(main())
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
