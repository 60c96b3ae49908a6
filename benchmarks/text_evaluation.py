"""Compares this project's text evaluation with lm-eval's `hf` model, side by side in one run.

    python benchmarks/text_evaluation.py DATA                     # 134 M parameters, on a CPU
    python benchmarks/text_evaluation.py DATA --tasks gsm8k boolq    # a part; the rest is kept
    python benchmarks/text_evaluation.py DATA --shape 7b --precision bf16 --items 4    # on a GPU

DATA holds the benchmarks' files in their authors' layout (`truthfulqa/`, `ethics/`, `mmlu/`,
`gsm8k/`, `boolq/`, `mathqa/`, `squadv2/`) and `llama2_tokenizer/` with Llama 2's `tokenizer.model`.

Each task, with today's settings of lm-eval but 5, 8 and 4 examples for MMLU, GSM8K and MathQA, is
put to both models on the same random weights, each time in a process of its own, one after the
other. `hf` gets a batch size, ours the same number of tokens: the batch size times the task's
longest request. Random weights never come to an end, so answers have the length of GSM8K's, about
128 tokens. Timed is lm-eval's whole evaluation of the loaded task: prompts, tokens, passes,
metrics. The peak of memory is what comes on top of the process with the model loaded: on a CPU
resident memory without files, where large blocks are given back at once
(`MALLOC_MMAP_THRESHOLD_`); on a GPU what torch's allocator tells. `difference` is the largest one
between two log-likelihoods of the same request; of generated texts the share that is the same is
told.

`adapters` evaluates ten LoRA adapters of one base together, and one of them alone: the bound is ten
times the one less nine loads of the base, all in processes whose libraries are imported already.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from sight_beyond_text.files import write_json, write_text

ITEMS = {
    "truthfulqa_mc1": 8,
    "truthfulqa_mc2": 8,
    "mmlu": 8,
    "ethics_cm": 32,
    "ethics_justice": 64,
    "ethics_deontology": 64,
    "ethics_virtue": 80,
    "ethics_utilitarianism": 64,
    "boolq": 24,
    "mathqa": 8,
    "squadv2": 4,
    "gsm8k": 4,
    "truthfulqa_gen": 4,
}
"""Questions of each task (of MMLU, of one subject)."""

FOLDERS = {
    "truthfulqa": "truthfulqa",
    "ethics": "ethics",
    "mmlu": "mmlu",
    "gsm8k": "gsm8k",
    "boolq": "boolq",
    "squadv2": "squadv2",
}
SHOTS = {"mmlu": 5, "gsm8k": 8, "mathqa": 4}
SUBJECT = "high_school_biology"
"""Of MMLU's, one with questions of middling length."""

TARGETS = {
    "truthfulqa_mc1": 5,
    "truthfulqa_mc2": 5,
    "mmlu": 3,
    "ethics_virtue": 2,
    "ethics_deontology": 2,
    "gsm8k": 1.3,
}
"""How many times faster it should be; other tasks shouldn't be slower."""

ADAPTERS = 10
OF_ADAPTERS = {"ethics_virtue": 200}
"""Questions that adapters are evaluated on."""

_RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Measures; writes JSON and a table in Markdown, and prints it."""
    args = _parsed()
    os.environ["MALLOC_MMAP_THRESHOLD_"] = os.environ["MALLOC_TRIM_THRESHOLD_"] = "65536"
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        job = {
            "shape": args.shape,
            "precision": args.precision,
            "threads": args.threads,
            "data": str(args.data.resolve()),
            "folder": folder,
            "answer": args.answer,
        }
        prepared = _alone("prepare", job)
        settings = {
            "hardware": prepared["hardware"],
            "versions": {"python": platform.python_version(), **prepared["versions"]},
            "shape": args.shape,
            "parameters": prepared["parameters"],
            "precision": args.precision,
            "threads": args.threads,
            "batch_size": args.batch_size,
            "tokens_of_an_answer": args.answer,
        }
        kind = re.sub(r"\W+", "-", prepared["hardware"].get("gpu", "")).lower()
        default = "-".join(filter(None, ["text_evaluation", kind]))
        out = args.out or _RESULTS / f"{default}.json"
        report = begun(out, settings)
        for task in args.tasks:
            limit = ITEMS[task] * args.items
            job["benchmarks"] = {task: entry(task, args, Path(folder), limit)}
            row = compared(task, job, min(args.batch_size, limit))
            report["tasks"] = merged(report["tasks"], row)
            print(_line(row), file=sys.stderr)
            keep(report, out)
        if args.adapters:
            job["benchmarks"] = {
                task: entry(task, args, Path(folder), limit) for task, limit in OF_ADAPTERS.items()
            }
            report["adapters"] = adapters(job)
            keep(report, out)
    print(told(report))
    print(f"\nwritten: {out}")


def begun(out: Path, settings: dict) -> dict:
    """A report to go on with: the one that is there, where it was measured in the same way."""
    fresh = {"command": command(), "date": "", **settings, "tasks": [], "adapters": None}
    if not out.is_file():
        return fresh
    found = json.loads(out.read_text("utf-8"))
    if any(found.get(key) != value for key, value in settings.items()):
        sys.exit(f"error: {out}: measured otherwise; remove it, or give another with --out")
    return {**fresh, **found, "command": command()}


def command() -> str:
    """How all of it is measured: as it was called, but for the part and for where things lie."""
    given, left = ["python", "benchmarks/text_evaluation.py", "DATA"], sys.argv[1:]
    while left:
        word = left.pop(0)
        if word in ("--tasks", "--out", "--work", "--adapters", "--no-adapters"):
            while left and not left[0].startswith("--"):
                left.pop(0)
        elif word.startswith("--"):
            given += [word, left.pop(0)]
    return " ".join(given)


def merged(rows: list[dict], row: dict) -> list[dict]:
    """Rows with a new one in its place, in the order of the tasks."""
    kept = [old for old in rows if old["task"] != row["task"]]
    return sorted([*kept, row], key=lambda one: list(ITEMS).index(one["task"]))


def keep(report: dict, out: Path) -> None:
    """Writes the report as it is by now."""
    report["date"] = datetime.date.today().isoformat()
    write_json(out, report)
    write_text(out.with_suffix(".md"), told(report) + "\n")


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("data", type=Path, help="folder of the benchmarks' files and the tokenizer")
    add("--shape", choices=("tiny", "134m", "7b"), default="134m")
    add("--precision", choices=("fp32", "bf16"), default="fp32")
    add("--tasks", choices=ITEMS, nargs="*", default=list(ITEMS))
    add("--adapters", action=argparse.BooleanOptionalAction, default=True)
    add("--items", type=int, default=1, help="times as many questions of each task")
    add("--subject", default=SUBJECT, help="of MMLU")
    add("--batch-size", type=int, default=8, help="of hf")
    add("--answer", type=int, default=128, help="tokens of a generated answer")
    add("--threads", type=int, default=2)
    add("--out", type=Path, help="JSON file, gone on with; in benchmarks/results by default")
    add("--work", type=Path, help="folder with room for the weights, for the time")
    return parser.parse_args()


def entry(task: str, args: argparse.Namespace, folder: Path, limit: int) -> dict:
    """A benchmark of a study for one task."""
    path = args.data.resolve() / FOLDERS.get(task.split("_")[0], "")
    if task == "mathqa":
        path = folder / "mathqa"
    if task == "mmlu":
        path = folder / "mmlu"
        for split in ("dev", "test"):
            (path / split).mkdir(parents=True, exist_ok=True)
            file = path / split / f"{args.subject}_{split}.csv"
            if not file.exists():
                file.symlink_to(args.data.resolve() / "mmlu" / split / file.name)
    return {"task": None, "path": str(path), "fewshot": SHOTS.get(task), "limit": limit}


def compared(task: str, job: dict, batch_size: int) -> dict:
    """Both models on a task; `hf` first, as it tells the longest request."""
    theirs = _alone("measure", {**job, "contender": "hf", "batch_size": batch_size})
    tokens = batch_size * theirs["length"]
    ours = _alone("measure", {**job, "contender": "sight", "tokens": tokens})
    pairs = list(zip(theirs.pop("answers"), ours.pop("answers"), strict=True))
    numbers = [(a[0], b[0]) for a, b in pairs if not isinstance(a, str)]
    texts = [a == b for a, b in pairs if isinstance(a, str)]
    ratio = theirs["seconds"] / ours["seconds"]
    return {
        "task": task,
        "items": ours["items"],
        "longest_request": theirs["length"],
        "tokens_a_pass": tokens,
        "hf": {key: theirs[key] for key in ("seconds", "peak_mib")},
        "sight": {key: ours[key] for key in ("seconds", "peak_mib")},
        "times_faster": ratio,
        "target": TARGETS.get(task, 1),
        "difference": max((abs(a - b) for a, b in numbers), default=None),
        "same_texts": sum(texts) / len(texts) if texts else None,
    }


def adapters(job: dict) -> dict:
    """Ten adapters of one base together, and one of them alone, each in a fresh process."""
    _alone("write_adapters", {**job, "adapters": ADAPTERS})
    one = _alone("evaluate_adapters", {**job, "adapters": 1})
    ten = _alone("evaluate_adapters", {**job, "adapters": ADAPTERS})
    load = _alone("load", job)["seconds"]
    return {
        "adapters": ADAPTERS,
        "items": ten["items"],
        "loads": ten["loads"],
        "seconds_of_one": one["seconds"],
        "seconds_of_a_load": load,
        "seconds_of_all": ten["seconds"],
        "bound": ADAPTERS * one["seconds"] - (ADAPTERS - 1) * load,
    }


def _alone(function: str, job: dict) -> dict:
    """Calls a function of `text_evaluation_case` in a process that ends with it."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["text_evaluation_case"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_call, function, job).result()


def _call(function: str, job: dict) -> dict:
    import text_evaluation_case

    return getattr(text_evaluation_case, function)(job)


def told(report: dict) -> str:
    """The report in Markdown."""
    hardware, versions = report["hardware"], report["versions"]
    where = hardware.get("gpu") or hardware["cpu"]
    lines = [
        "# Text evaluation: `sight` against lm-eval's `hf`",
        "",
        f"`{report['command']}`, {report['date']}",
        "",
        f"- {where}; {hardware['cpus']} cores, {hardware['memory_gib']:.0f} GiB of memory;"
        f" {report['threads']} threads",
        "- " + ", ".join(f"{name} {number}" for name, number in versions.items()),
        f"- Llama's architecture, {report['parameters'] / 1e6:,.0f} M random weights in"
        f" {report['precision']}; `hf` with batches of {report['batch_size']}, `sight` with as many"
        " tokens a pass",
        "",
        "| task | items | hf, s | sight, s | times faster | target | hf, MiB | sight, MiB | same |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|",
        *map(_line, report["tasks"]),
    ]
    found = report["adapters"]
    if found:
        lines += [
            "",
            f"{found['adapters']} adapters of one base, {found['items']} items each:"
            f" {found['seconds_of_all']:.1f} s with {found['loads']} load of the base. One alone"
            f" takes {found['seconds_of_one']:.1f} s, {found['seconds_of_a_load']:.2f} s of which"
            f" are the base's, so that less than {found['bound']:.1f} s are wanted.",
        ]
    return "\n".join(lines)


def _line(row: dict) -> str:
    same = [] if row["difference"] is None else [f"within {row['difference']:.0e}"]
    same += [] if row["same_texts"] is None else [f"{row['same_texts']:.0%} of texts"]
    cells = [
        row["task"],
        str(row["items"]),
        f"{row['hf']['seconds']:.1f}",
        f"{row['sight']['seconds']:.1f}",
        f"{row['times_faster']:.1f}",
        f"{row['target']}",
        f"{row['hf']['peak_mib']:,.0f}",
        f"{row['sight']['peak_mib']:,.0f}",
        ", ".join(same),
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
