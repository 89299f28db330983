"""Records in wheels and sdists the commit that they are built from; all else is in setup.cfg."""

import sys
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # a build in isolation does not look here
from lsengine.external.installation import RECORD, commit  # noqa: E402


def _record(folder: Path) -> None:
    if found := commit(HERE):
        (folder / "lsengine" / RECORD).write_text(found + "\n")


class BuildPy(build_py):
    """The package, with the commit beside the modules; not where it stays in the checkout."""

    def run(self) -> None:
        """Copy the modules, and write the commit."""
        super().run()
        if not self.editable_mode:
            _record(Path(self.build_lib))


class Sdist(sdist):
    """The project, with the commit in the package."""

    def make_release_tree(self, base_dir: str, files: Any) -> None:
        """Copy the files, and write the commit."""
        super().make_release_tree(base_dir, files)
        _record(Path(base_dir))


setup(cmdclass={"build_py": BuildPy, "sdist": Sdist})
