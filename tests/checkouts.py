"""Scratch copies of the repository, in which tests run snakemake."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from sight_beyond_text.files import write_text

PARTS = ("Snakefile", "config.yaml", "workflow", "profiles", "envs", "src", "figures")


class Checkout:
    """A copy of the repository in which `snakemake` runs."""

    def __init__(self, folder: Path):
        self.folder = folder

    def snakemake(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        """Runs snakemake there; returns what it printed (stdout and stderr in one)."""
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        environment["PYTHONPATH"] = str(self.folder / "src")
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", *arguments],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1800,
        )
        if check and done.returncode:
            raise AssertionError(f"snakemake {' '.join(arguments)}\n{done.stdout[-6000:]}")
        return done

    def planned(self, *arguments: str) -> dict[str, int]:
        """How many jobs of each rule a dry run plans."""
        told = self.snakemake("-n", *arguments).stdout
        if "Nothing to be done" in told:
            return {}
        table = told.split("Job stats:", 1)[1].split("total", 1)[0]
        return {name: int(n) for name, n in re.findall(r"^(\w+)\s+(\d+)\s*$", table, re.M)}

    def study(self, file: str, /, **changes) -> str:
        """Writes the tiny study with changes (dotted keys) beside it; returns its path."""
        values = yaml.safe_load((Path(__file__).parent / "workflow" / "tiny.yaml").read_text())
        for key, value in changes.items():
            here = values
            *parents, last = key.split("__")
            for part in parents:
                here = here.setdefault(part, {})
            here[last] = value
        path = self.folder / f"{file}.yaml"
        # Another process may be reading it.
        write_text(path, yaml.safe_dump(values, sort_keys=False))
        return str(path)


def copy(repository: Path, folder: Path) -> Checkout:
    """Copies what a clone holds, without results."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        source = repository / part
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(source, folder / part, ignore=ignored)
        elif source.exists():
            shutil.copy2(source, folder / part)
    return Checkout(folder)
