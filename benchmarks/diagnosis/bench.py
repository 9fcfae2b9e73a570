"""How often is `mmext diagnose` right? Plants causes of bad masks, trains, and holds its answers against what was planted.

    OMP_NUM_THREADS=1 python benchmarks/diagnosis/bench.py --seeds 0 1 --jobs 2 --out benchmarks/diagnosis/limits.json
    OMP_NUM_THREADS=1 python benchmarks/diagnosis/bench.py --seeds 5 6 7 --jobs 2 --advice \\
        --out benchmarks/diagnosis/results.json

Each run is a `mim train` of its own, about a minute of a core; what is there already is not done again, nor what the file
of ``--out`` has, so that another machine can go on. Each seed has images of its own. ``--again`` diagnoses anew, with the
rules as they are now. ``--advice`` trains each fault that was trained once more from what ``--write-config`` wrote. Beside
the answers stand TIDE's error types where hotcoco can be imported (``pip install --no-deps --target DIR hotcoco==1.3.0``
and ``PYTHONPATH=DIR``): it is no dependency of ours.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import planted
from cases import CASES, Case
from mmengine.config import Config
from mmengine.runner import Runner
from tables import print_tables

from mmext import recipe
from mmext.analysis.runs import read_run
from mmext.atomic_file import write_atomically
from mmext.data.demo import PARTICLES, fiber, write_part
from mmext.optim.group_report import load_config

HERE = Path(__file__).resolve().parent
KINDS = {
    'particles': PARTICLES,
    'compact': {name: PARTICLES[name] for name in ('Fragment', 'Film')},
    'fibers': {'Fiber': (fiber, (3, 7), *PARTICLES['Fiber'][2:])},
}
PARTS = (('train', 60), ('val', 20))


def write_data(folder: Path, kinds: str, seed: int) -> None:
    """Images of one kind, and of the particles the annotation files that are spoilt."""
    for number, (part, images) in enumerate(PARTS):
        if not (folder / part / 'annotations.json').exists():
            list(write_part(folder / part, images, (seed, number), KINDS[kinds]))
    if kinds == 'particles':
        train, val = (folder / part / 'annotations.json' for part, _ in PARTS)
        for name in ('eroded', 'shifted', 'swapped'):
            planted.spoil(train, train.with_name(f'{name}.json'), getattr(planted, name), seed)
        planted.spoil(val, val.with_name('widened.json'), planted.widened, seed)
        planted.first_images(train, train.with_name('five.json'), 5)
        planted.turned_categories(val, val.with_name('permuted.json'))


def with_data(value: object, data: Path) -> object:
    """A change with the folder of its data."""
    if isinstance(value, str):
        return value.replace('{data}', str(data))
    return {key: with_data(one, data) for key, one in value.items()} if isinstance(value, dict) else value


def config_of(case: Case, data: Path, seed: int) -> Config:
    """The recipe with a case's changes, as one config without bases."""
    cfg = load_config(recipe(case.recipe))
    cfg.custom_imports.imports = [*cfg.custom_imports.imports, 'planted']
    general = {f'{part}_dataloader.dataset.data_root': str(data) for part, _ in PARTS} | {
        'val_evaluator.ann_file': f'{data}/val/annotations.json',
        'train_cfg.max_epochs': case.epochs,
        'train_cfg.val_interval': case.every,
        'default_hooks.checkpoint.interval': case.every,
        'randomness.seed': seed,
    }
    for changes in (general, case.changes):
        cfg.merge_from_dict({key: with_data(value, data) for key, value in changes.items()})
    cfg.test_dataloader, cfg.test_evaluator = cfg.val_dataloader, cfg.val_evaluator
    return cfg


def mim_train(config: Path, work_dir: Path) -> subprocess.CompletedProcess:
    """One run in a process of its own; its output goes to console.txt."""
    work_dir.mkdir(parents=True, exist_ok=True)
    command = [Path(sys.executable).with_name('mim'), 'train', 'mmdet', config, '--work-dir', work_dir]
    with (work_dir / 'console.txt').open('w') as output:
        return subprocess.run([*map(str, command)], stdout=output, stderr=subprocess.STDOUT, env=environment(), check=False)


def environment() -> dict[str, str]:
    paths = [str(HERE), *filter(None, [os.environ.get('PYTHONPATH')])]
    return {**os.environ, 'PYTHONPATH': os.pathsep.join(paths)}


class Bench:
    """The runs of some seeds in one folder, each step done once.

    Args:
        folder: of all runs.
        again: whether answers that are there are thrown away.
    """

    def __init__(self, folder: Path, again: bool):
        self.folder, self.again = folder.resolve(), again

    def place(self, case: Case, seed: int) -> Path:
        return self.folder / f'seed{seed}' / case.name.replace(' ', '_').replace(',', '')

    def data(self, case: Case, seed: int) -> Path:
        return self.folder / f'seed{seed}' / 'data' / case.kinds

    def train(self, case: Case, seed: int) -> None:
        """Train a case, or see its training refused."""
        work_dir = self.place(case, seed)
        if (work_dir / 'trained').exists():
            return
        shutil.rmtree(work_dir, ignore_errors=True)
        work_dir.mkdir(parents=True)
        config = work_dir.with_name(work_dir.name + '.py')
        config_of(case, self.data(case, seed), seed).dump(config)
        begin = time.monotonic()
        done = mim_train(config, work_dir)
        console = (work_dir / 'console.txt').read_text()
        if case.refuses:
            last = next((line for line in reversed(console.splitlines()) if case.refuses in line), '')
            refused = bool(done.returncode and last and not read_run(work_dir).train)
            answer = {'refused': refused, 'words': last.replace(f'{self.folder}/', '')}
            (work_dir / 'answer.json').write_text(json.dumps(answer))
        elif not read_run(work_dir).train:
            sys.exit(f'{work_dir.name}, seed {seed} failed; its output is in {work_dir / "console.txt"}')
        (work_dir / 'trained').write_text(f'{time.monotonic() - begin:.0f}')

    def plant(self, case: Case, seed: int) -> None:
        """A copy of a healthy run under another config, validated as that config says."""
        healthy = next(one for one in CASES if one.name == case.on)
        source, work_dir = self.place(healthy, seed), self.place(case, seed)
        if (work_dir / 'trained').exists():
            return
        shutil.rmtree(work_dir, ignore_errors=True)
        shutil.copytree(source, work_dir, ignore=shutil.ignore_patterns('answer.json', 'results.*'))
        cfg = config_of(case, self.data(case, seed), seed)
        log = next(work_dir.glob('*/vis_data/scalars.json'))
        cfg.dump(log.with_name('config.py'))
        metrics = {key: float(value) for key, value in self.validate(cfg, work_dir).items()}
        lines = log.read_text().splitlines()
        last = max(i for i, line in enumerate(lines) if '"coco/' in line)
        lines[last] = json.dumps(json.loads(lines[last]) | metrics)
        log.write_text('\n'.join(lines) + '\n')
        (work_dir / 'trained').write_text('0')

    def validate(self, cfg: Config, work_dir: Path) -> dict[str, float]:
        """Metrics of the last checkpoint of a run; its detections go to results.segm.json."""
        checkpoint = Path((work_dir / 'last_checkpoint').read_text())
        cfg.load_from, cfg.work_dir = str(work_dir / checkpoint.name), str(work_dir / 'validation')
        # of one name there is one visualizer, with the folder of its first run
        cfg.experiment_name = cfg.visualizer.name = f'{work_dir.parent.name}_{work_dir.name}'
        cfg.log_level, cfg.custom_hooks = 'ERROR', []
        evaluators = cfg.val_evaluator if isinstance(cfg.val_evaluator, list) else [cfg.val_evaluator]
        evaluators[0].outfile_prefix = str(work_dir / 'results')
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # its tables; ours come at the end
                return Runner.from_cfg(cfg).val()
        finally:
            shutil.rmtree(work_dir / 'validation', ignore_errors=True)

    def diagnose(self, case: Case, seed: int) -> None:
        """`mmext diagnose --deep` as a person would start it."""
        work_dir = self.place(case, seed)
        answer = work_dir / 'answer.json'
        if case.refuses or (answer.exists() and not self.again):
            return
        mended = work_dir.with_name(f'{work_dir.name}_mended.py')
        mended.unlink(missing_ok=True)
        command = [Path(sys.executable).with_name('mmext'), 'diagnose', work_dir, '--deep', '--json', answer]
        command += ['--write-config', mended]
        begin = time.monotonic()
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment(), check=False)
        (work_dir / 'answer.txt').write_text(done.stdout + done.stderr)
        if done.returncode not in (0, 1):
            sys.exit(f'diagnose of {work_dir} ended with {done.returncode}:\n{done.stderr}')
        (work_dir / 'seconds').write_text(f'{time.monotonic() - begin:.0f}')

    def advice(self, case: Case, seed: int) -> list[str]:
        """The lines of what ``--write-config`` wrote, but for the base; none where it wrote nothing."""
        work_dir = self.place(case, seed)
        config = work_dir.with_name(f'{work_dir.name}_mended.py')
        lines = config.read_text().splitlines() if config.exists() else []
        return [line for line in lines if not line.startswith('_base_ = ')]

    def follow(self, case: Case, seed: int, advice: list[str]) -> float | None:
        """Train the run again with the advice; its mask AP."""
        work_dir = self.place(case, seed)
        config = work_dir.with_name(f'{work_dir.name}_mended.py')
        mended = config.with_suffix('')
        if not (mended / 'trained').exists():
            shutil.rmtree(mended, ignore_errors=True)
            faulty = work_dir.with_name(work_dir.name + '.py')
            config_of(case, self.data(case, seed), seed).dump(faulty)
            config.write_text('\n'.join([f'_base_ = {str(faulty)!r}', *advice]) + '\n')
            mim_train(config, mended)
            (mended / 'trained').touch()
        return read_run(mended).last('coco/segm_mAP')

    def errors(self, case: Case, seed: int) -> dict[str, float] | None:
        """TIDE's error types of a run's masks: what mending each would add to AP50; None without hotcoco."""
        try:
            import hotcoco
        except ImportError:
            return None
        work_dir = self.place(case, seed)
        results = work_dir / 'results.segm.json'
        if case.refuses:
            return None
        cfg = Config.fromfile(read_run(work_dir).config_file)
        if not results.exists():
            self.validate(cfg, work_dir)
        if not json.loads(results.read_text()):
            return {}
        truth = hotcoco.COCO(str(Path(cfg.val_dataloader.dataset.data_root) / cfg.val_dataloader.dataset.ann_file))
        evaluation = hotcoco.COCOeval(truth, truth.load_res(str(results)), 'segm')
        evaluation.evaluate()
        return dict(evaluation.tide_errors()['delta_ap'])

    def record(self, case: Case, seed: int) -> dict:
        """What the tables need of a run."""
        work_dir = self.place(case, seed)
        answer = json.loads((work_dir / 'answer.json').read_text())
        if case.refuses:
            return answer
        found = [{key: one[key] for key in ('code', 'severity', 'where', 'follows_from')} for one in answer['findings']]
        return {
            'verdict': answer['verdict'],
            'status': answer['status'],
            'findings': found,
            'box_ap': answer['facts']['box_ap'],
            'mask_ap': answer['facts']['mask_ap'],
            'experiments': {one['name']: one['gain'] for one in answer['experiments'] if one.get('gain') is not None},
            'advice': self.advice(case, seed),
            'tide': self.errors(case, seed),
            'training_s': int((work_dir / 'trained').read_text()),
            'diagnosis_s': int((work_dir / 'seconds').read_text()),
        }


class Records:
    """What was found, by case and seed; kept in a file, if any, after each.

    Args:
        file: of ``--out``.
    """

    def __init__(self, file: Path | None):
        self.file, self._lock = file, threading.Lock()
        known = json.loads(file.read_text())['runs'] if file and file.exists() else {}
        self.runs = {name: {int(seed): one for seed, one in runs.items()} for name, runs in known.items()}

    def get(self, case: Case, seed: int) -> dict | None:
        return self.runs.get(case.name, {}).get(seed)

    def put(self, case: Case, seed: int, record: dict) -> None:
        with self._lock:
            self.runs.setdefault(case.name, {})[seed] = record
            if self.file:
                order = [one.name for one in CASES if one.name in self.runs]
                runs = {name: dict(sorted(self.runs[name].items())) for name in order}
                write_atomically(json.dumps({'runs': runs}, indent=1).encode() + b'\n', self.file)


def each(title: str, step: Callable[[Case, int], None], work: Iterable[tuple[Case, int]], jobs: int) -> None:
    """A step for all cases, a few at a time, with a line for each."""
    work, begin = list(work), time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        started = {pool.submit(step, *one): one for one in work}
        for number, job in enumerate(as_completed(started), 1):
            job.result()
            case, seed = started[job]
            print(
                f'{title} {number} of {len(work)}: {case.name}, seed {seed} ({time.monotonic() - begin:.0f} s)', flush=True
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--cases', nargs='+', metavar='NAME', help='only these', choices=[case.name for case in CASES])
    parser.add_argument('--jobs', type=int, default=1, help='processes at a time; set OMP_NUM_THREADS to share the cores')
    parser.add_argument('--again', action='store_true', help='diagnose anew what has an answer')
    parser.add_argument('--train-only', action='store_true')
    parser.add_argument('--advice', action='store_true', help='train what --write-config wrote')
    parser.add_argument('--work-dirs', type=Path, default=Path('work_dirs/diagnosis'))
    parser.add_argument('--out', type=Path, help='keep every answer as JSON; what it has is not done again')
    options = parser.parse_args()
    bench, records = Bench(options.work_dirs, options.again), Records(options.out)
    cases = [case for case in CASES if not options.cases or case.name in options.cases]
    every = [(case, seed) for seed in options.seeds for case in cases]
    missing = [one for one in every if options.again or records.get(*one) is None]
    followed = [one for one in every if options.advice and one[0].codes and not one[0].on]
    for case, seed in [*missing, *followed]:
        write_data(bench.data(case, seed), case.kinds, seed)
    # what is planted needs the weights of the run that it is planted on
    names = {(case.on or case.name, seed) for case, seed in missing}
    needed = [(case, seed) for seed in options.seeds for case in CASES if (case.name, seed) in names]
    each('trained', bench.train, needed, options.jobs)
    if options.train_only:
        return 0
    each('planted', bench.plant, [one for one in missing if one[0].on], 1)
    each('diagnosed', bench.diagnose, missing, options.jobs)

    def keep(case: Case, seed: int) -> None:
        records.put(case, seed, bench.record(case, seed))

    def follow(case: Case, seed: int) -> None:
        record = records.get(case, seed)
        if record['advice'] and 'mended_mask_ap' not in record:
            after = bench.follow(case, seed, record['advice'])
            records.put(case, seed, record | {'mended_mask_ap': after})

    each('recorded', keep, missing, 1)
    each('mended', follow, followed, options.jobs)
    print_tables(records.runs)
    return 0


if __name__ == '__main__':
    sys.exit(main())
