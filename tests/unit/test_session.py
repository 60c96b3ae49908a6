"""Errors of the disk in one line, whatever wrote."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

WRITERS = {
    "python": "path.write_bytes(bytes(2**20))",
    "safetensors": "from safetensors.torch import save_file as save; save({'one': ones}, path)",
    "torch": "torch.save({'one': ones}, str(path))",
}
# Files may be no larger than 64 KiB.
LIMITED = """
import resource, sys
from pathlib import Path
from sight_beyond_text.session import session
with session(sys.argv[1]):
    import torch
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
    path, ones = Path(sys.argv[2]), torch.ones(2**18)
    {writer}
"""
FULL = """
import sys
from sight_beyond_text.session import session
with session(sys.argv[1]):
    raise OSError(28, "No space left on device", "weights")
"""


def told(code: str, *arguments: Path) -> str:
    """What a step that fails shows at the terminal."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    return done.stderr


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_that_can_not_be_written_is_told_in_one_line(writer, tmp_path):
    log = tmp_path / "step.log"
    (line,) = told(LIMITED.format(writer=WRITERS[writer]), log, tmp_path / "file").splitlines()
    assert line.startswith("error: ") and "ulimit -f" in line and "the same again" in line
    assert "Traceback" in log.read_text()


def test_where_the_disk_of_the_logs_is_full_the_terminal_is_told(tmp_path):
    if not Path("/dev/full").is_char_device():
        pytest.skip("no /dev/full here")
    (tmp_path / "step.log").symlink_to("/dev/full")
    line = "error: weights: No space left on device; make room and type the same again\n"
    assert told(FULL, tmp_path / "step.log") == line
