"""Compares this project's text evaluation with lm-eval's `hf` model, side by side in one run.

    python benchmarks/text_evaluation.py DATA                     # 134 M parameters, on a CPU
    python benchmarks/text_evaluation.py DATA --shape 7b --precision bf16 --items 4    # on a GPU

DATA holds the benchmarks' files in their authors' layout (`truthfulqa/`, `ethics/`, `mmlu/`,
`gsm8k/`, `boolq/`, `mathqa/`, `squadv2/`) and `llama2_tokenizer/` with Llama 2's `tokenizer.model`.

Each task, with today's settings of lm-eval but 5, 8 and 4 examples for MMLU, GSM8K and MathQA, is
put to both models on the same random weights, each time in a process of its own, one after the
other. `hf` gets a batch size, ours the same number of tokens: the batch size times the task's
longest request. Random weights never come to an end, so answers have the length of GSM8K's, about
128 tokens. Timed is lm-eval's whole evaluation of the loaded task: prompts, tokens, passes,
metrics. The peak of memory is what comes on top of the process with the model loaded: resident
memory on a CPU, where large blocks are given back at once (`MALLOC_MMAP_THRESHOLD_`); on a GPU
what torch's allocator tells. `difference` is the largest one between two log-likelihoods of the
same request; of generated texts the share that is the same is told.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shlex
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

from sight_beyond_text.files import write_json

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

_RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Measures, prints a table, writes JSON."""
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
        machine = _alone("prepare", job)
        rows = []
        for task in args.tasks:
            job["benchmarks"] = {task: entry(task, args, Path(folder))}
            rows.append(compared(task, job, min(args.batch_size, ITEMS[task] * args.items)))
            print(_line(rows[-1]), file=sys.stderr)
    report = {
        "command": shlex.join(["python", "benchmarks/text_evaluation.py", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        **machine,
        "shape": args.shape,
        "precision": args.precision,
        "threads": args.threads,
        "batch_size": args.batch_size,
        "tokens_of_an_answer": args.answer,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("lm_eval", "torch", "transformers")},
        },
        "tasks": rows,
    }
    kind = "cpu" if machine["device"] == "CPU" else "gpu"
    out = args.out or _RESULTS / f"text_evaluation-{args.shape}-{kind}.json"
    write_json(out, report)
    print(told(report))
    print(f"\nwritten: {out}")


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("data", type=Path, help="folder of the benchmarks' files and the tokenizer")
    add("--shape", choices=("tiny", "134m", "7b"), default="134m")
    add("--precision", choices=("fp32", "bf16"), default="fp32")
    add("--tasks", choices=ITEMS, nargs="+", default=list(ITEMS))
    add("--items", type=int, default=1, help="times as many questions of each task")
    add("--subject", default=SUBJECT, help="of MMLU")
    add("--batch-size", type=int, default=8, help="of hf")
    add("--answer", type=int, default=128, help="tokens of a generated answer")
    add("--threads", type=int, default=2)
    add("--out", type=Path, help="JSON file; in benchmarks/results by default")
    add("--work", type=Path, help="folder with room for the weights, for the time")
    return parser.parse_args()


def entry(task: str, args: argparse.Namespace, folder: Path) -> dict:
    """A benchmark of a study for one task."""
    name, path = None, args.data.resolve() / FOLDERS.get(task.split("_")[0], "")
    if task == "mathqa":
        path = folder / "mathqa"
    if task == "mmlu":
        path = folder / "mmlu"
        for split in ("dev", "test"):
            (path / split).mkdir(parents=True, exist_ok=True)
            file = path / split / f"{args.subject}_{split}.csv"
            if not file.exists():
                file.symlink_to(args.data.resolve() / "mmlu" / split / file.name)
    limit = ITEMS[task] * args.items
    return {"task": name, "path": str(path), "fewshot": SHOTS.get(task), "limit": limit}


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
    """The report as a table in Markdown."""
    head = (
        "| task | items | hf, s | sight, s | times faster | target | hf, MiB | sight, MiB | same |"
    )
    lines = [head, "|---|---:|---:|---:|---:|---:|---:|---:|---|", *map(_line, report["tasks"])]
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
