"""Metadata is in setup.cfg; here only what it cannot say: the wheel carries configs/ as mmext/.mim/configs."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildPyWithConfigs(build_py):
    def run(self):
        super().run()
        if not self.editable_mode:  # an editable install reads the checkout's configs
            shutil.copytree('configs', Path(self.build_lib, 'mmext/.mim/configs'), dirs_exist_ok=True)


setup(cmdclass={'build_py': BuildPyWithConfigs})
