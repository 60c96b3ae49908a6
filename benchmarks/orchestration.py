"""Measures what orchestration costs, beside the work that it orchestrates.

    python benchmarks/orchestration.py --planning --study

Planning: seconds of `snakemake --dry-run` and of `sight plan` for generated studies of 100, 1,000
and 10,000 runs in which nothing was done yet, each command in a process of its own, as it is typed,
its start included; the fastest of five times where that takes seconds. The studies are the default
study with more bases (folders of their own, whose files are hashed), sources (some with
instructions of their own), tunings and seeds; each run is scored on both suites, in a job each.

Study: the default study from nothing to its figures, `snakemake --cores N` in an empty folder. Its
time on the clock times the cores is set against what its steps really computed: forward and
backward passes and steps of optimizers, counted in CPU seconds inside each process
(`compute_counter.py`). All else is overhead: starting and importing, reading and writing, scoring,
statistics, figures, Snakemake, and cores that wait.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from sight_beyond_text.files import read_json, write_json, write_text
from sight_beyond_text.session import session

REPOSITORY = Path(__file__).resolve().parents[1]
GRIDS = {100: (2, 2, 5, 5), 1_000: (4, 5, 5, 10), 10_000: (10, 10, 10, 10)}
"""Runs: bases, sources, tunings and seeds that span them."""

TIMES = {100: 5, 1_000: 5, 10_000: 1}
"""How often each of the commands is run; it is judged by the fastest time, as by `timeit`."""

SECONDS = {1_000: 10, 10_000: 120}
"""What each of the commands may take."""

RATIO = 1.5
"""What cores times the clock may be of what is useful."""


def main() -> None:
    """Measures what was asked for, prints tables, writes JSON and a page."""
    args = _parsed()
    report = read_json(args.out, "earlier measurements") if args.out.is_file() else {}
    if args.planning:
        report["planning"] = measured_planning(args.runs)
    if args.study:
        report["study"] = measured_study(args.cores)
    write_json(args.out, report)
    page = as_page(report)
    write_text(args.out.with_suffix(".md"), page)
    print(page)
    rows = report["planning"]["rows"] if args.planning else []
    slow = [f"{row['command']} {row['runs']}" for row in rows if _is_slow(row)]
    if args.study and report["study"]["ratio"] > RATIO:
        slow.append(f"the study's ratio {report['study']['ratio']:.2f}")
    if slow:
        sys.exit(f"over the bound: {', '.join(slow)}")


def measured_planning(grids: list[int]) -> dict:
    """Times both commands for each grid.

    Returns:
        How and where it was measured, and `rows`: `command`, `runs`, `jobs` that are planned,
        `seconds` on the clock, `cpu` seconds and `gib` at the peak of the fastest time, the seconds
        of the `slowest`, and the machine's `load` of other work at the start.
    """
    rows = []
    for runs in grids:
        with tempfile.TemporaryDirectory() as folder:
            study = write_study(Path(folder), runs)
            planned = _snakemake(study, study.parent, "--dry-run", "--cores", "2")
            for command in (planned, _sight_plan(study)):
                load = os.getloadavg()[0]
                times = [_timed(command, Path(folder)) for _ in range(TIMES[runs])]
                row = min(times, key=lambda one: one["seconds"])
                slowest = max(one["seconds"] for one in times)
                rows.append({"runs": runs, "load": load, **row, "slowest": slowest})
                print(_line(rows[-1]), file=sys.stderr)
    return {**_where(), "rows": rows}


def measured_study(cores: int) -> dict:
    """Runs the default study from nothing, and adds up what its steps computed.

    Returns:
        How and where it was measured, `cores`, `seconds` on the clock, `useful` CPU seconds, their
        `ratio`, the machine's `load` of other work at the start, and `rows`: for each command of
        `sight` its `processes`, and their `useful`, `cpu` and `seconds` added up.
    """
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        place, counts, programs = (Path(folder) / part for part in ("study", "counts", "bin"))
        for path in (place, counts, programs):
            path.mkdir()
        counter = REPOSITORY / "benchmarks" / "compute_counter.py"
        program = programs / "sight"
        write_text(program, f'#!/bin/sh\nexec {sys.executable} {counter} "$@"\n')
        program.chmod(0o755)
        command = _snakemake(REPOSITORY / "config.yaml", place, "--cores", str(cores))
        environment = {
            "COMPUTE_COUNTS": str(counts),
            "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        told = _timed(command, place, environment)
        found = [read_json(path, "counts of a process") for path in counts.iterdir()]
    rows = {}
    for one in found:
        row = rows.setdefault(one["command"], {"command": one["command"], "processes": 0})
        row["processes"] += 1
        for name in ("useful", "cpu", "seconds"):
            row[name] = row.get(name, 0.0) + one[name]
    useful = sum(row["useful"] for row in rows.values())
    return {
        **_where(),
        "cores": cores,
        "load": load,
        "seconds": told["seconds"],
        "useful": useful,
        "ratio": told["seconds"] * cores / useful,
        "rows": sorted(rows.values(), key=lambda row: -row["cpu"]),
    }


def write_study(folder: Path, runs: int) -> Path:
    """Writes a study of so many runs with the files that it names; returns its path."""
    bases, sources, tunings, seeds = GRIDS[runs]
    values = yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8"))
    values["name"] = f"grid-{runs}"
    values.pop("claims", None)  # they name sources and tunings of the default study
    values["bases"] = {
        f"base-{number}": {"model": _write_base(folder, number), "template": "v1"}
        for number in range(bases)
    }
    values["sources"] = {
        f"source-{number}": _source(folder, number, values["data"]) for number in range(sources)
    }
    modes = ("full", "lora", "qlora")
    values["tunings"] = {
        f"tuning-{number}": {
            **values["tunings"][modes[number % len(modes)]],
            "mode": modes[number % len(modes)],
            "learning_rate": 1e-3 / (number + 1),
        }
        for number in range(tunings)
    }
    values["seeds"] = list(range(seeds))
    values["jobs"] = {"gpu": False}
    path = folder / "study.yaml"
    write_text(path, yaml.safe_dump(values, sort_keys=False))
    return path


def _write_base(folder: Path, number: int) -> str:
    """A folder like a downloaded model's, without its weights."""
    base = folder / "models" / f"base-{number}"
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 1024,
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "number": number,
    }
    write_json(base / "config.json", config)
    write_json(base / "tokenizer.json", {"model": {"vocab": {f"w{i}": i for i in range(1024)}}})
    return str(base.relative_to(folder))


def _source(folder: Path, number: int, data: dict) -> dict:
    form = ("visual", "caption", "text")[number % 3]
    if number < 3:
        return {"form": form}
    turns = [
        {"from": "human", "value": "<image>\nWhat is this?"},
        {"from": "gpt", "value": f"A circle, said source {number}."},
    ]
    path = folder / "instructions" / f"{number}.json"
    write_json(
        path, [{"id": str(n), "image": f"{n}.png", "conversations": turns} for n in range(999)]
    )
    return {"form": form, "instructions": str(path.relative_to(folder))}


def _snakemake(study: Path, folder: Path, *options: str) -> list[str]:
    command = [sys.executable, "-m", "snakemake", *options, "--quiet", "rules"]
    command += ["--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(folder)]
    command += ["--workflow-profile", str(REPOSITORY / "profiles/default")]
    return [*command, "--configfile", str(study)]


def _sight_plan(study: Path) -> list[str]:
    return [sys.executable, "-m", "sight_beyond_text.cli", "plan", str(study)]


def _timed(command: list[str], folder: Path, more: dict[str, str] | None = None) -> dict:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), **(more or {})}
    with tempfile.TemporaryFile("w+") as told:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=told, stderr=told)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        told.seek(0)
        text = told.read()
    if status:
        sys.exit(f"{shlex.join(command)} failed:\n{text[-3000:]}")
    jobs = re.search(r"^total\s+(\d+)", text, re.M)
    return {
        "command": "snakemake --dry-run" if "snakemake" in command else "sight plan",
        "jobs": int(jobs[1]) if jobs else None,
        "seconds": seconds,
        "cpu": used.ru_utime + used.ru_stime,
        "gib": used.ru_maxrss / 2**20,
    }


def as_page(report: dict) -> str:
    """The measurements as a page."""
    lines = ["# What orchestration costs", ""]
    if "planning" in report:
        lines += [*_planning_lines(report["planning"]), ""]
    if "study" in report:
        lines += [*_study_lines(report["study"]), ""]
    return "\n".join(lines)


def _planning_lines(planning: dict) -> list[str]:
    return [
        "## Planning",
        "",
        "Studies of which nothing was done yet; each run is scored on both suites. Each command"
        " was run as it is typed, from its start to its end, five times but for 10,000 runs. Told"
        " are the fastest time, which was disturbed least, and the slowest.",
        "",
        _measured(planning),
        "",
        "Load is what else ran (processes that wanted a core, at the start): where it is above"
        " the number of cores, seconds are mostly waiting, and CPU seconds are more, too.",
        "",
        "| command | runs | jobs | seconds | slowest | CPU, s | peak, GiB | load | allowed, s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        *map(_line, planning["rows"]),
    ]


def _study_lines(study: dict) -> list[str]:
    held = study["seconds"] * study["cores"]
    return [
        "## The default study",
        "",
        f"From nothing to its figures: {study['seconds']:.0f} s on {study['cores']} cores, that is"
        f" {held:.0f} core-seconds. Of them {study['useful']:.0f} went into forward and backward"
        f" passes and steps of optimizers: **{study['ratio']:.2f}** core-seconds for each useful"
        f" one (at most {RATIO} are allowed).",
        "",
        _measured(study),
        "",
        "CPU and useful seconds of all processes of a command; what Snakemake itself took isn't"
        " in the table.",
        "",
        "| command | processes | useful, s | CPU, s | clock, s |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {row['command']} | {row['processes']} | {row['useful']:.1f} | {row['cpu']:.1f}"
            f" | {row['seconds']:.1f} |"
            for row in study["rows"]
        ),
    ]


def _measured(part: dict) -> str:
    return (
        f"Measured on {part['date']}: {part['hardware']}, Python {part['python']},"
        f" Snakemake {part['snakemake']}. To repeat it: `{part['repeat']}`."
    )


def _line(row: dict) -> str:
    jobs = "-" if row["jobs"] is None else f"{row['jobs']:,}"
    cells = [row["command"], f"{row['runs']:,}", jobs]
    cells += [f"{row[name]:.1f}" for name in ("seconds", "slowest", "cpu")]
    cells += [f"{row['gib']:.2f}", f"{row['load']:.1f}", str(SECONDS.get(row["runs"], "-"))]
    return f"| {' | '.join(cells)} |"


def _is_slow(row: dict) -> bool:
    return row["seconds"] > SECONDS.get(row["runs"], float("inf"))


def _where() -> dict:
    return {
        "repeat": shlex.join(["python", "benchmarks/orchestration.py", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "snakemake": _version("snakemake"),
        "hardware": _hardware(),
    }


def _hardware() -> str:
    named = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    return f"{os.cpu_count()} cores of {named[1].strip() if named else platform.machine()}"


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--planning", action="store_true", help="time the planning of large grids")
    add("--study", action="store_true", help="run the default study, and count what it computes")
    add("--cores", type=int, default=os.cpu_count(), help="for the study")
    add("--runs", type=int, nargs="+", choices=list(GRIDS), default=list(GRIDS), metavar="N")
    out = Path(__file__).parent / "results" / "orchestration.json"
    add("--out", type=Path, default=out, help="JSON file; its page lies beside it")
    args = parser.parse_args()
    if not args.planning and not args.study:
        parser.error("nothing to measure; give --planning, --study or both")
    return args


if __name__ == "__main__":
    with session():
        main()
