"""Metadata is in setup.cfg; here only what it cannot say: the wheel carries configs/ and the model index in mmext/.mim."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildPyWithConfigs(build_py):
    def run(self):
        super().run()
        if not self.editable_mode:  # an editable install reads the checkout's configs
            target = Path(self.build_lib, 'mmext/.mim')
            shutil.copytree('configs', target / 'configs', dirs_exist_ok=True)
            shutil.copy('model-index.yml', target)


setup(cmdclass={'build_py': BuildPyWithConfigs})
