"""Compares trainers, side by side in one run: speed, memory, losses.

    python benchmarks/training.py                               # a small model, on a CPU
    python benchmarks/training.py --shape 7b --steps 12         # Llama-2-7B's shape, on a GPU
    python benchmarks/training.py --shape 7b --tuning qlora --length 2048 --batch 1 \\
        --contenders ours --checkpointing on --out FILE.json    # memory of one long sample

The sides, on the same random weights and the same samples of LLaVA's lengths, eight a step:

published      transformers' Trainer as the published recipe sets it: micro-batches of 4, padded to
               their longest, in random order; checkpointing; the tower run on every batch; logits
               of all positions in float32; the loss a mean of micro-batches' means
plain          transformers' Trainer with its defaults: the same, without checkpointing, and the
               loss a mean over a step's learned tokens
ours           this project's trainer: passes under a token budget, logits of learned tokens alone,
               cached features of the tower, checkpointing where memory wants it
ours-grouped   the same, with `group_by_length`: like lengths in a step, so other steps

Each side trains in a process of its own, one after the other, in rounds; the first steps aren't
timed, and the median of the rounds is told. A token is any position that isn't padding, the
image's included. Model FLOP utilization counts what `training_shapes.learning_flops` says. Tokens a
CPU second hardly hang on what else a machine does; tokens a second do, with several threads most.

Losses are means over a step's learned tokens, however the side averages them to learn. `plain` and
`ours` differ by the order of sums and, with LoRA, by dropout's draws; `published` also gives the
tokens of the micro-batch that has fewer of them a larger weight.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import shlex
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path
from statistics import median

from training_shapes import MICRO_BATCH, SHAPES, fewest_positions

from sight_beyond_text.files import write_json, write_text

CONTENDERS = ("published", "plain", "ours", "ours-grouped")
BASELINES = ("published", "plain")
TOLERANCES = {"fp32": 0.001, "bf16": 0.02}
"""How far losses of the same step may lie apart between `plain` and `ours`, in nats a token."""

AVERAGING = 0.03
"""What may come to that with `published`, which weighs tokens otherwise."""

_RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Compares, prints tables, writes JSON."""
    args = _parsed()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    # Trainer would spread batches over all GPUs that it sees.
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    with tempfile.TemporaryDirectory(dir=args.work) as folder:
        job = {
            "shape": args.shape,
            "steps": args.steps,
            "batch": args.batch,
            "length": args.length,
            "token_budget": args.token_budget or SHAPES[args.shape]["token_budget"],
            "checkpointing": args.checkpointing,
            "optimizer": args.optimizer,
            "threads": args.threads,
            "folder": folder,
        }
        prepared = alone("prepare", job)
        features = prepared["features"]
        compared = [compare({**job, "tuning": tuning}, args, features) for tuning in args.tuning]
    report = {
        "command": shlex.join(["python", "benchmarks/training.py", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "hardware": prepared["hardware"],
        "versions": {"python": platform.python_version(), **prepared["versions"]},
        "shape": {"name": args.shape, **SHAPES[args.shape]},
        "batch": args.batch,
        "length": args.length,
        "steps": args.steps,
        "warm_up_steps": args.warm_up,
        "rounds": args.rounds,
        "features": features,
        "comparisons": compared,
    }
    device = re.sub(r"\W+", "-", prepared["hardware"].get("gpu", "cpu")).lower()
    out = args.out or _RESULTS / f"training-{device}.json"
    write_json(out, report)
    write_text(out.with_suffix(".md"), page(report))
    for comparison in compared:
        print(told(comparison), end="\n\n")
    print(f"written: {out}, {out.with_suffix('.md')}")


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    tunings = ("full", "lora", "qlora")
    add("--shape", choices=SHAPES, default="cpu", help="of the model")
    add("--tuning", choices=tunings, nargs="+", default=["lora", "full"])
    add("--contenders", choices=CONTENDERS, nargs="+", default=CONTENDERS, help="sides")
    add("--steps", type=int, default=4, help="optimizer steps a round")
    add("--warm-up", type=int, default=1, help="steps at the start that aren't timed")
    add("--rounds", type=int, default=3, help="times that each side trains")
    add("--batch", type=int, default=8, help="samples a step")
    add("--length", type=int, help="positions of every sample, instead of LLaVA's lengths")
    add("--token-budget", type=int, help="positions a pass of ours")
    add("--sweep", type=int, nargs="+", help="budgets to try; the fastest is compared")
    add("--checkpointing", choices=("auto", "on", "off"), default="auto", help="of ours")
    add("--optimizer", choices=("adamw", "paged_adamw_8bit"), default="adamw", help="of ours")
    add("--threads", type=int, default=os.cpu_count() or 1)
    add("--out", type=Path, help="JSON file; by default under benchmarks/results/, by device")
    add("--work", type=Path, help="folder with room for the weights and features, for the time")
    args = parser.parse_args()
    if not 0 <= args.warm_up < args.steps:
        parser.error("--warm-up must leave steps to time")
    if args.batch > MICRO_BATCH and args.batch % MICRO_BATCH:
        parser.error(f"--batch must be a multiple of {MICRO_BATCH}, or less")
    if args.length is not None and args.length <= (least := fewest_positions(SHAPES[args.shape])):
        parser.error(f"--length must be more than {least}: the image and a prompt come first")
    return args


def alone(function: str, job: dict) -> dict:
    """Calls a function of `training_contender` in a process that ends with it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_call, function, job).result()


def _call(function: str, job: dict) -> dict:
    # What libraries say at each start isn't about the comparison.
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        # Imported here, as a process' peak memory begins with that of the one which starts it.
        import training_contender

        return getattr(training_contender, function)(job)


def compare(job: dict, args: argparse.Namespace, features: dict) -> dict:
    """All sides in one tuning.

    Returns:
        `sides` (medians, and losses of the first round), `loss_differences` between sides that see
        the same steps, and the `sweep` over budgets, if any.
    """
    sweep = {}
    for budget in args.sweep or ():
        done = _contend({**job, "contender": "ours", "token_budget": budget}, args, "sweep")
        sweep[budget] = done.get("tokens_a_second", 0.0)
    if sweep:
        job = {**job, "token_budget": max(sweep, key=sweep.get)}
    rounds: dict[str, list[dict]] = {contender: [] for contender in args.contenders}
    for number in range(args.rounds):
        # Nobody is always the first, when the machine may still be cool.
        first = number % len(args.contenders)
        for contender in (*args.contenders[first:], *args.contenders[:first]):
            done = _contend({**job, "contender": contender}, args, f"round {number + 1}")
            rounds[contender].append(done)
    sides = {contender: _median(done) for contender, done in rounds.items()}
    for side in sides.values():
        for baseline in BASELINES:
            speeds = [s.get("tokens_a_second") for s in (side, sides.get(baseline, {}))]
            side[f"times_{baseline}"] = speeds[0] / speeds[1] if all(speeds) else None
    for contender, side in sides.items():
        if contender.startswith("ours") and "failed" not in side:
            # What a run of one epoch reaches that makes the features for itself alone.
            an_image = features["seconds"] / features["images"] / side["tokens_a_sample"]
            side["tokens_a_second_with_features"] = 1 / (1 / side["tokens_a_second"] + an_image)
    return {
        "tuning": job["tuning"],
        "token_budget": job["token_budget"],
        "sweep": sweep,
        "sides": sides,
        "loss_differences": _differences(sides, TOLERANCES[SHAPES[job["shape"]]["precision"]]),
    }


def _differences(sides: dict[str, dict], tolerance: float) -> list[dict]:
    """The largest difference of losses for each pair of sides that see the same steps."""
    same = [name for name in sides if name != "ours-grouped" and "failed" not in sides[name]]
    found = []
    for one, other in combinations(same, 2):
        losses = zip(sides[one]["losses"], sides[other]["losses"], strict=True)
        largest = max(abs(a - b) for a, b in losses)
        allowed = tolerance + AVERAGING * ("published" in (one, other))
        found.append({"sides": [one, other], "largest": largest, "tolerance": allowed})
    return found


def _contend(job: dict, args: argparse.Namespace, when: str) -> dict:
    """One side once: rates over the timed steps."""
    try:
        done = alone("contend", job)
    except BrokenProcessPool:
        done = {"failed": "killed, likely for memory"}
    what = f"{when}: {job['tuning']}, {job['contender']}, budget {job['token_budget']}"
    if "failed" in done:
        print(f"{what}: {done['failed']}", file=sys.stderr)
        return done
    sums = {
        name: sum(done[name][args.warm_up :])
        for name in ("seconds", "cpu_seconds", "tokens", "learned", "positions", "flops")
    }
    flops = sums["flops"] / sums["seconds"]
    rates = {
        "learned_tokens_a_second": sums["learned"] / sums["seconds"],
        "tokens_a_second": sums["tokens"] / sums["seconds"],
        "tokens_a_cpu_second": sums["tokens"] / sums["cpu_seconds"],
        "padding": 1 - sums["tokens"] / sums["positions"],
        "peak_mib": done["peak_mib"],
        "model_flops_a_second": flops,
        "utilization": flops / done["peak_flops"] if done["peak_flops"] else None,
        "step_seconds": sums["seconds"] / (args.steps - args.warm_up),
        "tokens_a_sample": sums["tokens"] / (args.steps - args.warm_up) / args.batch,
    }
    print(f"{what}: {rates['tokens_a_second']:.0f} tokens/s", file=sys.stderr)
    kept = ("losses", "start_mib", "checkpointing", "parameters", "trainable")
    return {**rates, **{name: done[name] for name in kept}}


def _median(rounds: list[dict]) -> dict:
    """Medians of what differs between rounds, and all rounds' rates; one failure is a failure."""
    failed = next((done for done in rounds if "failed" in done), None)
    if failed is not None:
        return dict(failed)
    middle = {
        name: median(done[name] for done in rounds)
        for name in (
            "learned_tokens_a_second", "tokens_a_second", "tokens_a_cpu_second", "peak_mib",
            "model_flops_a_second", "step_seconds",
        )
    }  # fmt: skip
    if rounds[0]["utilization"] is not None:
        middle["utilization"] = median(done["utilization"] for done in rounds)
    rates = [done["tokens_a_second"] for done in rounds]
    return {**rounds[0], **middle, "rounds_tokens_a_second": rates}


def page(report: dict) -> str:
    """All comparisons in Markdown, with what they were made on."""
    machine = ", ".join(f"{key}: {value}" for key, value in report["hardware"].items())
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    steps = f"{report['rounds']} rounds of {report['steps']} steps"
    head = [
        "# Trainers, side by side",
        "",
        f"`{report['command']}`, {report['date']}. {machine}. {versions}.",
        f"Shape {report['shape']['name']}, {report['batch']} samples a step, {steps},"
        f" the first {report['warm_up_steps']} untimed.",
    ]
    return "\n".join([*head, *(f"\n## {told(one)}" for one in report["comparisons"])]) + "\n"


def told(comparison: dict) -> str:
    """A comparison as a table in Markdown, with a line on losses."""
    on_gpu = any(side.get("utilization") for side in comparison["sides"].values())
    last = "MFU" if on_gpu else "tokens/CPU s"
    lines = [
        f"{comparison['tuning']}, token budget {comparison['token_budget']}",
        "",
        f"| trainer | tokens/s | x published | x plain | learned/s | padding | peak MiB | {last} |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, side in comparison["sides"].items():
        if "failed" in side:
            lines.append(f"| {name} | {side['failed']} | | | | | | |")
            continue
        times = [side[f"times_{baseline}"] for baseline in BASELINES]
        cells = [
            name,
            f"{side['tokens_a_second']:,.0f}",
            *("" if ratio is None else f"{ratio:.2f}" for ratio in times),
            f"{side['learned_tokens_a_second']:,.0f}",
            f"{side['padding']:.1%}",
            f"{side['peak_mib']:,.0f}",
            f"{side['utilization']:.1%}" if on_gpu else f"{side['tokens_a_cpu_second']:,.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for name, side in comparison["sides"].items():
        if "tokens_a_second_with_features" in side:
            lines += [
                "",
                f"{name}, with the making of the features, for a run that has them for itself:"
                f" {side['tokens_a_second_with_features']:,.0f} tokens/s",
            ]
    for row in comparison["loss_differences"]:
        verdict = "within" if row["largest"] <= row["tolerance"] else "BEYOND"
        lines += [
            "",
            f"losses of {' and '.join(row['sides'])}: {row['largest']:.2g} apart at most,"
            f" {verdict} {row['tolerance']:g}",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
