#!/usr/bin/env python3
"""Set mmext up on a fresh machine: virtual environment, pinned stack, mmcv with its compiled operators, mmext itself.

Usage: python3.11 tools/setup_env.py [--venv .venv]      (`make setup` calls it)

Needs Python 3.11 or 3.12 with venv, a C++ compiler and a package index; uses the standard library alone. Every finished
step leaves a stamp in the environment, so that a second call goes on where the first stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / 'constraints.txt'
MMCV = '2.1.0'
BUILD_MINUTES = '5 to 10 minutes on two cores'
# mmcv is tried as soon as it is installed, so what it imports must be there: mmengine and cv2
BUILD_TOOLS = ['pip', 'setuptools', 'wheel', 'ninja', 'psutil', 'packaging', 'numpy', 'torch', 'mmengine', 'opencv-python']


class StepError(Exception):
    """A step of the set-up failed: which, where its log is, and what to do."""


class Setup:
    """The steps, in order; each runs when its stamp is missing or what it depends on has changed."""

    def __init__(self, venv: Path, cache: Path):
        self.venv = venv
        self.cache = cache
        self.python = venv / 'bin' / 'python'
        self.stamps = venv / '.mmext'

    def run(self) -> None:
        steps = [
            ('environment', self.make_environment, sys.version + str(self.venv)),
            ('torch', self.install_torch, CONSTRAINTS.read_text() + ' '.join(BUILD_TOOLS)),
            ('mmcv', self.install_mmcv, MMCV + CONSTRAINTS.read_text()),
            ('packages', self.install_packages, CONSTRAINTS.read_text() + (ROOT / 'setup.cfg').read_text()),
            ('mmext', self.install_mmext, (ROOT / 'setup.cfg').read_text() + (ROOT / 'setup.py').read_text() + str(ROOT)),
            ('check', self.check, CONSTRAINTS.read_text() + (ROOT / 'setup.cfg').read_text()),
        ]
        key = ''
        for number, (name, step, depends_on) in enumerate(steps, 1):
            key = hashlib.sha256((key + depends_on).encode()).hexdigest()  # a step redone redoes those after it
            stamp = self.stamps / f'{name}.done'
            if stamp.is_file() and stamp.read_text() == key and self.python.exists():
                continue
            begin = time.monotonic()
            print(f'[{number}/{len(steps)}] {name} ...', flush=True)
            step()
            self.stamps.mkdir(parents=True, exist_ok=True)
            stamp.write_text(key)
            print(f'[{number}/{len(steps)}] {name}: done in {time.monotonic() - begin:.0f} s', flush=True)

    def make_environment(self) -> None:
        if self.venv.exists() and not (self.venv / 'pyvenv.cfg').is_file() and any(self.venv.iterdir()):
            raise StepError(
                f'set-up stopped at step "environment": {self.venv} is there and is not a virtual environment.\n'
                'Remedy: give another folder, make setup VENV=DIR, or move that one away.'
            )
        # --clear: what an interrupted or other Python's environment holds is of no use
        self.call(
            'environment',
            [sys.executable, '-m', 'venv', '--clear', str(self.venv)],
            'install the venv module, on Debian and Ubuntu: apt-get install python3-venv',
        )

    def install_torch(self) -> None:
        self.pip(
            'torch',
            ['install', *BUILD_TOOLS],
            'look whether the package index is reached (pip config list), then run make setup again',
        )

    def install_packages(self) -> None:
        wanted = f'{ROOT}[check,dev,fast,formats,report]'
        self.pip(
            'packages',
            ['install', '--no-build-isolation', '-e', wanted],
            'look whether the package index is reached, then run make setup again',
        )

    def install_mmext(self) -> None:
        self.pip(
            'mmext',
            ['install', '--no-build-isolation', '--no-deps', '-e', str(ROOT)],
            'look at the log, then run make setup again',
        )

    def check(self) -> None:
        self.call('check', [str(self.python), '-m', 'pip', 'check'], 'remove the environment and run make setup again')

    def install_mmcv(self) -> None:
        """A ready wheel of the index, else ours from the cache, else a build; each must import beside this torch."""
        if self.mmcv_works():  # an earlier set-up was stopped just after it
            return
        ready = ['install', '--no-deps', '--only-binary', 'mmcv', f'mmcv=={MMCV}']
        with contextlib.suppress(StepError):
            self.pip('mmcv', ready, '')
            if self.mmcv_works():
                print('      a ready wheel of the package index fits', flush=True)
                return
        wheel = next(self.wheel_folder().glob('*.whl'), None)
        if wheel:
            print(f'      from the cache: {wheel}', flush=True)
        else:
            wheel = self.build_mmcv()
        self.pip(
            'mmcv', ['install', '--no-deps', '--force-reinstall', str(wheel)], f'remove {wheel} and run make setup again'
        )
        if not self.mmcv_works():
            raise StepError(
                'set-up stopped at step "mmcv": the wheel is installed, but its operators cannot be imported beside this '
                f'torch.\nLog: {self.log("mmcv")}\n'
                f'Remedy: remove {wheel.parent} and run make setup again; it then builds mmcv anew.'
            )

    def mmcv_works(self) -> bool:
        done = subprocess.run(
            [self.python, '-c', f'import mmcv.ops; assert mmcv.__version__ == {MMCV!r}'], capture_output=True, text=True
        )
        with self.log('mmcv').open('a') as log:
            log.write(f'$ import mmcv.ops\n{done.stderr}')
        return done.returncode == 0

    def wheel_folder(self) -> Path:
        """Where our wheel for this mmcv, torch and Python lies."""
        torch = self.ask('import torch; print(torch.__version__)')
        tag = f'cp{sys.version_info.major}{sys.version_info.minor}-{platform.system().lower()}-{platform.machine()}'
        return self.cache / f'mmcv-{MMCV}_torch-{torch}_{tag}'

    def build_mmcv(self) -> Path:
        """Build the wheel in the cache. What is compiled stays there, so that an interrupted build goes on."""
        if not (shutil.which('c++') or shutil.which('g++') or shutil.which('clang++')):
            raise StepError(
                'set-up stopped at step "mmcv": there is no C++ compiler, and mmcv has no ready wheel for this torch.\n'
                'Remedy: install one, on Debian and Ubuntu: apt-get install build-essential; then run make setup again.'
            )
        folder = self.wheel_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with self.locked(folder):
            wheel = next(folder.glob('*.whl'), None)
            if wheel:
                return wheel
            print(
                f'      no ready wheel of mmcv {MMCV} fits this torch: its C++ operators are compiled now.\n'
                f'      That takes {BUILD_MINUTES} and happens once; the wheel is kept in {folder}.\n'
                f'      Log: {self.log("mmcv")}',
                flush=True,
            )
            source = folder / 'build' / f'mmcv-{MMCV}'
            if not (source / 'setup.py').is_file():
                download = ['download', '--no-deps', '--no-binary', 'mmcv', '--no-build-isolation']
                download += ['-d', str(source.parent), f'mmcv=={MMCV}']
                self.pip('mmcv', download, 'look whether the package index is reached')
                with tarfile.open(next((folder / 'build').glob('mmcv-*.tar.gz'))) as archive:
                    archive.extractall(folder / 'unpacked', filter='data')
                (folder / 'unpacked' / source.name).rename(source)  # at once: what is there is whole
                (folder / 'unpacked').rmdir()
            made = folder / 'made'
            jobs = os.environ.get('MAX_JOBS') or str(os.cpu_count() or 1)
            environment = {**os.environ, 'MMCV_WITH_OPS': '1', 'MAX_JOBS': jobs}
            if self.ask('import torch; print(torch.version.cuda)') == 'None':
                environment['FORCE_CUDA'] = '0'
            self.pip(
                'mmcv',
                ['wheel', '--no-deps', '--no-build-isolation', '-w', str(made), str(source)],
                'install the compiler and the Python headers (apt-get install build-essential python3-dev), free '
                'memory (make setup MAX_JOBS=1), then run make setup again',
                environment,
            )
            wheel = next(made.glob('*.whl'))
            kept = folder / wheel.name
            wheel.replace(kept)  # at once: a wheel in the folder is a whole one
            shutil.rmtree(folder / 'build')
            made.rmdir()
            return kept

    @contextlib.contextmanager
    def locked(self, folder: Path):
        """Two set-ups at a time do not build into the same folder."""
        import fcntl

        with (folder / 'lock').open('w') as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                print('      another set-up is building mmcv; waiting for it', flush=True)
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def log(self, step: str) -> Path:
        return self.stamps / f'{step}.log'

    def pip(self, step: str, arguments: list[str], remedy: str, environment: dict | None = None) -> None:
        command, *rest = arguments
        options = ['--disable-pip-version-check', '-c', str(CONSTRAINTS)]
        self.call(step, [str(self.python), '-m', 'pip', command, *options, *rest], remedy, environment)

    def ask(self, code: str) -> str:
        return subprocess.run([self.python, '-c', code], capture_output=True, text=True, check=True).stdout.strip()

    def call(self, step: str, command: list[str], remedy: str, environment: dict | None = None) -> None:
        """Run a command with its output in the step's log; say every half minute that it is still at it."""
        log = self.log(step)
        if step != 'environment':
            log.parent.mkdir(parents=True, exist_ok=True)
        else:  # the environment is cleared by its own step
            log = self.venv.parent / f'{self.venv.name}-environment.log'
            log.parent.mkdir(parents=True, exist_ok=True)
        begin = time.monotonic()
        with log.open('a') as output:
            output.write(f'$ {" ".join(map(str, command))}\n')
            output.flush()
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
            while True:
                try:
                    status = process.wait(timeout=30)
                    break
                except subprocess.TimeoutExpired:
                    print(f'      still at it, {time.monotonic() - begin:.0f} s', flush=True)
                except BaseException:
                    process.terminate()
                    process.wait()
                    raise
        if status:
            raise StepError(f'set-up stopped at step "{step}" (exit status {status}).\nLog: {log}\nRemedy: {remedy}.')
        if step == 'environment':
            log.unlink()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--venv', default='.venv', help='folder of the virtual environment (default: .venv)')
    arguments = parser.parse_args()
    if not (3, 11) <= sys.version_info[:2] <= (3, 12):
        found = '.'.join(map(str, sys.version_info[:3]))
        print(
            f'mmext needs Python 3.11 or 3.12; {sys.executable} is {found}. Name another: make setup PYTHON=python3.11',
            file=sys.stderr,
        )
        return 2
    cache = Path(os.environ.get('MMEXT_CACHE') or Path.home() / '.cache' / 'mmext').expanduser().resolve()
    try:
        Setup(Path(arguments.venv).resolve(), cache).run()
    except StepError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\nInterrupted. `make setup` goes on from here.', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
