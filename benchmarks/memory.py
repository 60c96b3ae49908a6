"""Compares the memory that trainings take with what `sight plan` foretells.

    python benchmarks/memory.py                       # small shapes, on a CPU, minutes
    python benchmarks/memory.py --modes lora --precisions bf16
    python benchmarks/memory.py --shapes 7b           # on a GPU of 80 GB

Each case trains two steps, the second of two passes, with this project's trainer, on random
weights, ids and pixels, in a process of its own, one after the other. On a CPU what is measured is
the peak of the resident memory above what the process had before it loaded the model. Large blocks
are given back to the system at once meanwhile (`MALLOC_MMAP_THRESHOLD_`), as otherwise free memory
that the allocator keeps would be counted too. On a GPU it is the peak that torch's allocator tells.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shlex
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path

from sight_beyond_text.files import read_json, write_json, write_text

SHAPES = {
    "256 x 4": (256, 4, 688, (1024, 4096)),
    "512 x 8": (512, 8, 1376, (512, 2048)),
    "768 x 12": (768, 12, 2048, (512,)),
}
"""Width, depth, width of the MLP, positions a pass; the widest has fewer heads of keys."""

GPU_SHAPES = {"7b": (4096, 32, 11008, (2048, 8192))}
"""Llama-2-7B with ViT-L/14 and adapters of rank 64; in bfloat16, and full tuning left out unless it
is asked for (its weights and states alone are 100 GiB)."""

_LARGE = {
    "tower": {
        "image_size": 224,
        "patch_size": 14,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    },
    "rank": 64,
    "length": 512,
}
"""What of a case differs for shapes that need a GPU."""

_RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Measures, prints a table, writes JSON."""
    args = _parsed()
    # Read when a process starts, so by the one that all measured ones are forked from.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = os.environ["MALLOC_TRIM_THRESHOLD_"] = "65536"
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    report = {
        "command": shlex.join(["python", "benchmarks/memory.py", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "dropout": args.dropout,
        "cases": read_json(args.out, "report")["cases"] if args.add else [],
    }
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        for shape, precision in product(args.shapes, args.precisions):
            budgets = args.budgets or {**SHAPES, **GPU_SHAPES}[shape][-1]
            choices = product(args.modes, (False, True), budgets)
            cases = [
                {"shape": shape, "precision": precision, **dict(zip(_CASE, choice, strict=True))}
                for choice in choices
            ]
            known = [{key: row[key] for key in cases[0]} for row in report["cases"]]
            cases = [case for case in cases if case not in known]
            job = {**_sizes(shape), "precision": precision, "dropout": args.dropout}
            job["folder"] = folder
            if cases:
                report |= _alone("prepare", job)
            for case in cases:
                report["cases"].append({**case, **_alone("measure", {**job, **case})})
                # Whoever is interrupted goes on with --add.
                write_json(args.out, {**report, **summary(report["cases"])})
                print(_line(report["cases"][-1]), file=sys.stderr)
    whole = {**report, **summary(report["cases"])}
    write_text(args.out.with_suffix(".md"), page(whole))
    print(told(whole))
    print(f"\nwritten: {args.out}")


_CASE = ("mode", "checkpointing", "positions")


def _sizes(shape: str) -> dict:
    names = ("hidden_size", "num_hidden_layers", "intermediate_size")
    sizes = {"sizes": dict(zip(names, {**SHAPES, **GPU_SHAPES}[shape][:3], strict=True))}
    return {**sizes, **(_LARGE if shape in GPU_SHAPES else {})}


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    modes = ("full", "lora", "qlora", "frozen")
    add("--shapes", choices=[*SHAPES, *GPU_SHAPES], nargs="+", default=list(SHAPES))
    add("--modes", choices=modes, nargs="+", help="all by default; of shapes for a GPU, not full")
    add("--precisions", choices=("fp32", "bf16"), nargs="+", help="fp32; of those for a GPU, bf16")
    add("--budgets", type=int, nargs="+", help="positions a pass")
    add("--dropout", type=float, default=0.05, help="of adapters")
    add("--threads", type=int, default=1)
    add("--out", type=Path, help="JSON file; a table in Markdown goes beside it")
    add("--add", action="store_true", help="to the cases that the file has already")
    add("--work", type=Path, help="folder with room for the weights, for the time")
    args = parser.parse_args()
    large = [shape for shape in args.shapes if shape in GPU_SHAPES]
    if large and len(large) < len(args.shapes):
        parser.error("shapes for a CPU and for a GPU; measure them one after the other")
    if large and not shutil.which("nvidia-smi"):
        parser.error(f"--shapes {large[0]} needs an NVIDIA GPU, and none is here")
    args.modes = args.modes or [mode for mode in modes if not (large and mode == "full")]
    args.precisions = args.precisions or ["bf16" if large else "fp32"]
    args.out = args.out or _RESULTS / f"memory-{'gpu' if large else 'cpu'}.json"
    return args


def _alone(function: str, job: dict) -> dict:
    """Calls a function of `memory_case` in a process that ends with it."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["memory_case"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_call, function, job).result()


def _call(function: str, job: dict) -> dict:
    import memory_case

    return getattr(memory_case, function)(job)


def summary(rows: list[dict]) -> dict:
    """How far the estimates lie from what was measured, as shares of the measured.

    Returns:
        `largest` and `mean` of the absolute values, and how many lie `within_15_percent`.
    """
    apart = [abs(row["estimated_mib"] / row["measured_mib"] - 1) for row in rows]
    return {
        "largest": max(apart),
        "mean": sum(apart) / len(apart),
        "within_15_percent": sum(value <= 0.15 for value in apart),
    }


def told(report: dict) -> str:
    """The report as a table in Markdown, with a line of summary."""
    head = "| shape | precision | tuning | checkpointing | positions | measured | estimated | |"
    lines = [head, "|---|---|---|---|---:|---:|---:|---:|", *map(_line, report["cases"])]
    count = len(report["cases"])
    lines.append(
        f"\n{report['within_15_percent']} of {count} within 15 %; mean {report['mean']:.1%},"
        f" largest {report['largest']:.1%} (MiB)"
    )
    return "\n".join(lines)


def page(report: dict) -> str:
    """The report as a page: what was measured, on what, and the table."""
    machine = report["hardware"]
    where = ", ".join(f"{key}: {value}" for key, value in machine.items() if value is not None)
    return (
        "# Memory that trainings take, and what `sight plan` foretells\n\n"
        f"`{report['command']}`, {report['date']}. {where}.\n"
        "Peak above what the process had before it loaded the model; MiB.\n\n"
        f"{told(report)}\n"
    )


def _line(row: dict) -> str:
    apart = row["estimated_mib"] / row["measured_mib"] - 1
    cells = [
        row["shape"],
        row["precision"],
        row["mode"],
        "on" if row["checkpointing"] else "off",
        str(row["positions"]),
        f"{row['measured_mib']:,.0f}",
        f"{row['estimated_mib']:,.0f}",
        f"{apart:+.1%}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
