"""How tables and figures name and order what a study holds.

Names that are not listed here still work: they keep their own spelling and come last.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from numbers import Integral
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # The workflow asks for names while the job graph is built, where pandas is too slow to import.
    import pandas as pd

SOURCES = ("visual", "caption", "text")
TUNINGS = ("full", "lora", "qlora", "frozen")
TUNING_LABELS = {"full": "full", "lora": "LoRA", "qlora": "QLoRA", "frozen": "frozen"}

ETHICS = (
    "ethics_cm",
    "ethics_justice",
    "ethics_deontology",
    "ethics_virtue",
    "ethics_utilitarianism",
)
MACRO = "ethics"
"""Benchmark name of the mean over the five ETHICS subsets, each with the same weight."""

MEANS = {"text": "text_mean", "image": "image_mean"}
"""Benchmark names of the means over a suite's benchmarks, by suite."""

MEAN_METRIC = "mean"
"""Their metric: it stands for different ones, all of them fractions."""

HEADLINE = ("truthfulqa_mc1", "truthfulqa_mc2", MACRO)
"""The benchmarks that the study is about."""

BENCHMARK_LABELS = {
    "truthfulqa_mc1": "TruthfulQA mc1",
    "truthfulqa_mc2": "TruthfulQA mc2",
    "truthfulqa_gen": "TruthfulQA gen",
    MACRO: "ETHICS",
    "ethics_cm": "ETHICS commonsense",
    "ethics_justice": "ETHICS justice",
    "ethics_deontology": "ETHICS deontology",
    "ethics_virtue": "ETHICS virtue",
    "ethics_utilitarianism": "ETHICS utilitarianism",
    "mmlu": "MMLU",
    "gsm8k": "GSM8K",
    "mathqa": "MathQA",
    "boolq": "BoolQ",
    "squadv2": "SQuADv2",
    "vqa": "VQA",
    "pope": "POPE",
    "captions": "Captions",
    "text_mean": "mean of text",
    "image_mean": "mean of images",
    "mme": "MME",
}

METRIC_LABELS = {
    "acc": "accuracy",
    "accuracy": "accuracy",
    "exact_match": "exact match",
    "f1": "F1",
    "yes_ratio": "yes ratio",
    "precision": "precision",
    "recall": "recall",
}

MME_SUMS = ("perception", "cognition")
"""What MME's authors report: sums over subtasks of 200 each."""

_MAIN = ("acc", "accuracy", "exact_match", "CIDEr", "f1", "score")
_RAW = re.compile("score|total|perception|cognition")


def benchmark_label(benchmark: str) -> str:
    """Name of a benchmark as readers know it."""
    return BENCHMARK_LABELS.get(benchmark, benchmark.replace("_", " "))


def metric_label(metric: str) -> str:
    """Name of a metric as readers know it."""
    return METRIC_LABELS.get(metric, metric)


def main_metric(metrics: Iterable[str]) -> str:
    """The one metric that stands for a benchmark in a table, among those it reports."""
    known = sorted(set(metrics))
    return next((name for name in _MAIN if name in known), known[0])


def table_metrics(metrics: Iterable[str]) -> list[str]:
    """What stands for a benchmark in a table: its main metric, or MME's two sums."""
    known = set(metrics)
    sums = [name for name in MME_SUMS if name in known]
    return sums or [main_metric(known)]


def is_fraction(metric: str) -> bool:
    """Whether a metric lies between 0 and 1, so that a mean over benchmarks may take it in."""
    return metric != "CIDEr" and points(metric) == 100.0


def points(metric: str) -> float:
    """Factor from a stored value to the unit that is shown.

    Fractions become per cent, CIDEr 1.0 becomes 100. Sums such as MME's score stay as they are.
    """
    return 1.0 if _RAW.match(metric) else 100.0


def ordered(values: Iterable[str], first: Iterable[str]) -> list[str]:
    """The distinct values: those named in `first` in that order, then the rest by alphabet."""
    present = set(values)
    known = [value for value in first if value in present]
    return known + sorted(present.difference(known))


def base_labels(runs: pd.DataFrame) -> dict[str, str]:
    """Display name of every base model: the label of its untuned run, else its own name."""
    labels = {base: base for base in sorted(set(runs["base"])) if base}
    untuned = runs[(runs["kind"] == "base") & (runs["label"] != "")]
    return labels | dict(zip(untuned["base"], untuned["label"], strict=True))


def run_label(tuning: str, source: str, seed: object = None, kinds: str = "") -> str:
    """Short name of a run within its base, such as `LoRA, visual` or `LoRA, visual, seed 1`."""
    parts = [TUNING_LABELS.get(tuning, tuning), source]
    if kinds:
        parts.append(kinds)
    # A seed that is missing is None, NaN or pandas' NA, none of which is a whole number.
    if isinstance(seed, Integral):
        parts.append(f"seed {int(seed)}")
    return ", ".join(part for part in parts if part)
