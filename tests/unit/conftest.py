"""What unit tests share."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture
def small(tmp_path: Path):
    """A file system of 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if mount is None or os.geteuid() != 0 or subprocess.run(command).returncode:
        pytest.skip("a small file system can be made by root alone, where mounting is allowed")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
