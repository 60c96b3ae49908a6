"""What records say of the machine."""

import subprocess
import sys

import pytest

INNER = "from sight_beyond_text.training.record import peak_resident; print(peak_resident())"
OUTER = f"""
import subprocess, sys
held = b"x" * 1_000_000_000
subprocess.run([sys.executable, "-c", {INNER!r}], check=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux hands a peak on")
def test_the_peak_is_not_that_of_the_process_that_started_this_one():
    done = subprocess.run([sys.executable, "-c", OUTER], capture_output=True, text=True, check=True)
    assert 20e6 < int(done.stdout) < 800e6
