"""Times the comparison and the drawing of a large study: 50 runs, 60,000 items each.

    python benchmarks/comparison.py

Evaluations' tables are made up first, which isn't timed: two bases untuned and 48 tuned runs (three
seeds), on text and image benchmarks of the published sizes, with the details that evaluations
write. Then `sight compare` makes the study's tables of them, in a process of its own, and after it
`sight draw` every figure and the main table, as many at once as `--at-once` says. Told are seconds
and the peak of the largest process's memory.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from sight_beyond_text.analysis import names, tidy
from sight_beyond_text.figures.draw import FIGURES
from sight_beyond_text.files import write_json, write_text
from sight_beyond_text.session import session

TEXT = {
    "truthfulqa_mc1": ("acc", 817, 1),
    "truthfulqa_mc2": ("acc", 817, 1),
    "ethics_cm": ("acc", 3885, 1),
    "ethics_justice": ("acc", 2704, 4),
    "ethics_deontology": ("acc", 3596, 4),
    "ethics_virtue": ("acc", 4975, 5),
    "ethics_utilitarianism": ("acc", 4808, 1),
    "mmlu": ("acc", 14042, 1),
    "gsm8k": ("exact_match", 1319, 1),
    "boolq": ("acc", 3270, 1),
}
IMAGE = {"pope": ("accuracy", 9000, 18), "vqa": ("accuracy", 10767, 3)}
"""Metric, items, and how many of them share a picture, a passage or a scenario."""

GROUPS = ("humanities", "social_sciences", "stem", "other")
CELLS = (
    *(("visual", tuning) for tuning in names.TUNINGS),
    ("caption", "full"),
    ("caption", "lora"),
    ("text", "full"),
    ("text", "lora"),
)
BASES, SEEDS = ("llama-2-7b", "vicuna-7b"), (0, 1, 2)

COMPARE_SECONDS, GIB, DRAW_SECONDS = 60, 4, 30
"""What both may take."""


def main() -> None:
    """Measures, prints a table, writes JSON and Markdown."""
    args = _parsed()
    report = {
        "command": shlex.join(["python", "benchmarks/comparison.py", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "processor": processor(),
        "threads": args.threads,
        "at_once": args.at_once,
        "load": os.getloadavg()[0],
    }
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        work = Path(folder)
        spec, items = write_evaluations(work, args.share)
        report |= {"runs": len(spec["subjects"]), "items_a_run": items}
        report["bytes"] = sum(path.stat().st_size for path in work.rglob("*.parquet"))
        tables = work / "tables"
        record = work / "compare.json"
        compare = ["compare", json.dumps(spec), "--tables", tables, "--record", record]
        report["compare"] = measured(compare, args.threads)
        # The workflow seals tables by a rule of its own; without, nothing is drawn from them.
        told = json.dumps({"study": spec["study"], "claims": [], "published": []})
        report["seal"] = measured(["cache", "seal", told, "--tables", tables], args.threads)
        report["effects"] = len(tidy.read_table(tables, "effects"))
        report["over_seeds"] = len(tidy.read_table(tables, "over_seeds"))
        start = time.perf_counter()
        with ThreadPoolExecutor(args.at_once) as pool:
            jobs = {
                name: pool.submit(measured, _draw(name, tables, work), args.threads)
                for name in (*FIGURES, "main_table")
            }
            drawn = {name: job.result() for name, job in jobs.items()}
        report["draw"] = {
            "seconds": time.perf_counter() - start,
            "cpu": sum(one["cpu"] for one in drawn.values()),
            "gib": max(one["gib"] for one in drawn.values()),
            "figures": drawn,
        }
    write_json(args.out, report)
    write_text(args.out.with_suffix(".md"), markdown(report))
    print(markdown(report))
    print(f"written: {args.out}")
    over = (
        report["compare"]["seconds"] > COMPARE_SECONDS
        or report["compare"]["gib"] > GIB
        or report["draw"]["seconds"] > DRAW_SECONDS
    )
    if args.share == 1 and over:
        sys.exit("over the bound")


def markdown(report: dict) -> str:
    """The report as a page."""
    compare, draw = report["compare"], report["draw"]
    figures = "\n".join(
        f"| {name} | {one['seconds']:.1f} | {one['cpu']:.1f} | {one['gib']:.2f} |"
        for name, one in sorted(draw["figures"].items())
    )
    sizes = (
        f"{report['runs']} runs with {report['items_a_run']:,} items each, made up "
        f"({report['bytes'] / 2**20:.0f} MiB of evaluations' tables); {report['effects']:,} paired "
        f"effects, {report['over_seeds']:,} over seeds."
    )
    rows = [
        ("`sight compare`", compare, COMPARE_SECONDS, str(GIB)),
        (f"all figures and the main table, {report['at_once']} at once", draw, DRAW_SECONDS, ""),
    ]
    bounds = "\n".join(
        f"| {name} | {one['seconds']:.1f} | {allowed} | {one['cpu']:.1f} | {one['gib']:.2f} |"
        f" {gib} |"
        for name, one, allowed, gib in rows
    )
    return f"""# Comparing and drawing a large study

{sizes}

Measured on {report["date"]}: {report["processor"]}, {report["threads"]} threads a process, Python
{report["python"]}; load of the machine before: {report["load"]:.1f}.

| | seconds | allowed | of the CPU | peak, GiB | allowed |
|---|---:|---:|---:|---:|---:|
{bounds}

Each figure alone, its start and imports included:

| | seconds | of the CPU | peak, GiB |
|---|---:|---:|---:|
{figures}

To measure again: `{report["command"]}`
"""


def measured(arguments: list, threads: int) -> dict[str, float]:
    """Runs `sight` with arguments in a process of its own: `seconds`, `cpu`, `gib` (peak)."""
    start = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "sight_beyond_text.cli", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"sight {arguments[0]} failed; its message stands above")
    return {
        "seconds": time.perf_counter() - start,
        "cpu": usage.ru_utime + usage.ru_stime,
        "gib": usage.ru_maxrss / 2**20,
    }


def _draw(name: str, tables: Path, work: Path) -> list:
    return [
        *("draw", name, "--tables", tables, "--out", work / "drawn" / name),
        *("--record", work / f"{name}.json"),
    ]


def write_evaluations(work: Path, share: float) -> tuple[dict, int]:
    """Writes what evaluations leave.

    Args:
        work: where.
        share: of the sizes.

    Returns:
        The study, as `compare` takes it, and the number of items of a run.
    """
    rng = np.random.default_rng(0)
    subjects = [_subject(f"{base}-untuned", "base", base) for base in BASES]
    subjects += [
        _subject(f"{base}-{source}-{tuning}-s{seed}", "run", base, source, tuning, seed)
        for base in BASES
        for source, tuning in CELLS
        for seed in SEEDS
    ]
    questions = {
        (suite, name): _questions(name, max(4, int(size * share)), together)
        for suite, benchmarks in (("text", TEXT), ("image", IMAGE))
        for name, (_, size, together) in benchmarks.items()
    }
    for subject in subjects:
        for suite, benchmarks in (("text", TEXT), ("image", IMAGE)):
            folder = work / "runs" / subject["id"] / suite
            subject["evaluations"].append(str(folder))
            items = pd.concat(
                [
                    _items(rng, subject["id"], suite, name, metric, questions[suite, name])
                    for name, (metric, _, _) in benchmarks.items()
                ],
                ignore_index=True,
            )
            tidy.write_parquet(items, folder / "items.parquet")
            tidy.write_parquet(_scores(items), folder / "scores.parquet")
        if subject["kind"] == "run":
            steps = [
                {"step": 10 * n, "epoch": n / 100, "loss": 2 - n / 100, "learning_rate": 1e-5}
                for n in range(1, 101)
            ]
            subject["record"] = str(work / f"{subject['id']}.json")
            write_json(Path(subject["record"]), {"parameters": 7 * 10**9, "curve": steps})
    return {"study": "large", "subjects": subjects}, sum(map(len, questions.values()))


def _subject(name, kind, base, source=None, tuning=None, seed=None) -> dict:
    return {
        "id": name,
        "kind": kind,
        "label": base,
        "base_name": base,
        "source": source,
        "tuning": tuning,
        "seed": seed,
        "instruction_kinds": "all",
        "record": None,
        "alignment_record": None,
        "evaluations": [],
    }


def _questions(name: str, size: int, together: int) -> pd.DataFrame:
    """Items of a benchmark, the same for all runs: name, cluster, group, and how hard it is."""
    rng = np.random.default_rng(len(name) + size)
    number = np.arange(size)
    items = [f"{name}/{place}" for place in number]
    clusters = items if together == 1 else [f"{name}:{place // together}" for place in number]
    groups = np.array(GROUPS)[number * len(GROUPS) // size] if name == "mmlu" else ""
    frame = pd.DataFrame({"item": items, "cluster": clusters, "group": groups})
    frame["level"] = np.clip(rng.normal(0.5, 0.2, size), 0.05, 0.95)
    frame["question"] = [
        f"Which of these is true of thing {place} as people commonly tell of it, in most of the "
        f"places where it is found, and has been since at least {1900 + place % 100}?"
        for place in number
    ]
    return frame


def _items(rng, run, suite, name, metric, questions) -> pd.DataFrame:
    chance = questions["level"] + rng.normal(0, 0.05)
    score = (rng.random(len(questions)) < chance).astype(float)
    if name == "truthfulqa_mc2":
        score = np.clip(chance + rng.normal(0, 0.1, len(questions)), 0, 1).to_numpy()
    if name == "vqa":
        score = np.round(score * rng.integers(1, 11, len(questions)) * 0.3, 1).clip(0, 1)
    values = rng.normal(-20, 5, (len(questions), 4))
    details = [
        f'{{"question": "{question}", "choices": ["the first of them", "the second of them", '
        f'"the third of them", "none of them"], "loglikelihoods": [{a:.6f}, {b:.6f}, {c:.6f}, '
        f"{d:.6f}], {f'{chr(34)}group{chr(34)}: {chr(34)}{group}{chr(34)}, ' if group else ''}"
        f'"prompt": "{place:016x}", "protocol": "current"}}'
        for place, (question, group, (a, b, c, d)) in enumerate(
            zip(questions["question"], questions["group"], values.tolist(), strict=True)
        )
    ]
    return pd.DataFrame(
        {
            "run": run,
            "suite": suite,
            "benchmark": name,
            "metric": metric,
            "item": questions["item"],
            "cluster": questions["cluster"],
            "prediction": "the second of them",
            "reference": "the third of them",
            "score": score,
            "details": details,
        }
    )


def _scores(items: pd.DataFrame) -> pd.DataFrame:
    grouped = items[items["benchmark"] == "mmlu"].copy()
    grouped["metric"] = "acc_" + grouped["details"].str.extract(r'"group": "(\w+)"')[0]
    keys = ["run", "suite", "benchmark", "metric"]
    scores = pd.concat([items, grouped]).groupby(keys)["score"].agg(["mean", "sem", "size"])
    scores = scores.rename(columns={"mean": "value", "sem": "stderr", "size": "n"}).reset_index()
    return scores.assign(protocol="current", higher_is_better=True)[list(tidy.SCORES)]


def processor() -> str:
    """This machine's, as Linux names it."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    found = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} x {found[0]}" if found else platform.machine()


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--share", type=float, default=1.0, help="of the items")
    add("--threads", type=int, default=2, help="of each process")
    add("--at-once", type=int, default=2, help="figures drawn at the same time")
    add("--work", type=Path, help="folder with room for 1 GB of files, for the time")
    out = Path(__file__).parent / "results" / "comparison.json"
    add("--out", type=Path, default=out, help="JSON file; a page of the same name beside it")
    return parser.parse_args()


if __name__ == "__main__":
    with session():
        main()
