"""Makes the tables of a study that never ran: realistic sizes, noise, clusters and contrasts."""

from pathlib import Path

import numpy as np
import pandas as pd

from sight_beyond_text.analysis import names, tidy
from sight_beyond_text.analysis.effects import effects_table, intervals_table, measure
from sight_beyond_text.analysis.seeds import seeds_table

TEXT = {
    "truthfulqa_mc1": ("acc", 120, 0.30),
    "truthfulqa_mc2": ("acc", 120, 0.42),
    "ethics_cm": ("acc", 80, 0.58),
    "ethics_justice": ("acc", 80, 0.52),
    "ethics_deontology": ("acc", 80, 0.55),
    "ethics_virtue": ("acc", 100, 0.70),
    "ethics_utilitarianism": ("acc", 80, 0.60),
    "mmlu": ("acc", 150, 0.40),
    "gsm8k": ("exact_match", 90, 0.20),
    "boolq": ("acc", 110, 0.68),
}
"""Metric, items and the untuned base's level of each text benchmark."""

GROUPS = ("humanities", "social_sciences", "stem", "other")
"""MMLU's, in turns."""

EFFECT = {"visual": 0.05, "caption": 0.02, "text": 0.01}
PRICE = {"full": -0.06, "lora": -0.02, "qlora": -0.03, "frozen": 0.0}


def make_tables(
    seed: int = 0,
    bases: tuple[str, ...] = ("micro-base", "micro-chat"),
    sources: tuple[str, ...] = names.SOURCES,
    tunings: tuple[str, ...] = names.TUNINGS,
    seeds: tuple[int, ...] = (0,),
    image: bool = True,
    reference: bool = False,
    reference_base: str = "",
    corrupted: tuple[str, ...] = (),
    scale: float = 1.0,
    draws: int = 300,
) -> tidy.Tables:
    """Tables of a grid; `frozen` only with `visual`. The default grid holds 20 tuned runs.

    Args:
        seed: Of everything random.
        bases: Names of the bases; each is also scored untuned.
        sources: Sources of the grid.
        tunings: Tunings of the grid.
        seeds: Training seeds.
        image: Whether tuned runs are scored on images.
        reference: Whether a published checkpoint is scored, too.
        reference_base: Base of that checkpoint; it is compared with this one's runs alone, or with
            all runs where the study does not hold the base.
        corrupted: Kinds of corruption under which images are scored, too, at severities 1, 3, 5.
        scale: Factor on the numbers of items.
        draws: Of the bootstrap.
    """
    rng = np.random.default_rng(seed)
    runs = _runs(bases, sources, tunings, seeds, reference, reference_base)
    items, scores = [], []
    shifts = {base: rng.normal(0, 0.04) for base in bases}
    for benchmark, (metric, n, level) in TEXT.items():
        n = max(4, int(n * scale))
        hard = rng.normal(0, 0.15, n)
        for run in runs.to_dict("records"):
            aim = level + shifts.get(run["base"], 0.05) + _shift(run, benchmark)
            chance = np.clip(aim + hard, 0.02, 0.98)
            if benchmark == "truthfulqa_mc2":
                score = np.clip(chance + rng.normal(0, 0.1, n), 0, 1)
            else:
                score = (rng.random(n) < chance).astype(float)
            rows = _items(run["run"], "text", benchmark, metric, score, 1)
            if benchmark == "mmlu":
                groups = [GROUPS[place % len(GROUPS)] for place in range(n)]
                rows["details"] = [f'{{"group": "{group}"}}' for group in groups]
                for place, group in enumerate(GROUPS[:n]):
                    own = score[place :: len(GROUPS)]
                    scores.append(_score(run["run"], "text", "mmlu", f"{metric}_{group}", own))
            items.append(rows)
            scores.append(_score(run["run"], "text", benchmark, metric, score))
    if image:
        for run in runs[runs["kind"] != "base"].to_dict("records"):
            _image(rng, run, scale, items, scores)
    scores += _corrupted(rng, corrupted, scores)
    items = pd.concat(items, ignore_index=True)
    scores = pd.DataFrame(scores).astype({"n": "Int64"})
    measured = measure(runs, items, draws=draws)
    return tidy.Tables(
        runs=runs,
        scores=scores,
        items=items,
        curves=_curves(rng, runs),
        effects=tidy.with_protocol(effects_table(runs, measured), scores),
        over_seeds=tidy.with_protocol(seeds_table(runs, measured), scores),
        intervals=tidy.with_protocol(intervals_table(measured), scores),
        claims=tidy.empty("claims"),
        published=tidy.empty("published"),
    )


def write_tables(tables: tidy.Tables, directory: Path) -> None:
    """Writes all tables as `compare` leaves them."""
    for table, name in tidy.FILES.items():
        write = tidy.write_parquet if name.endswith(".parquet") else tidy.write_csv
        write(getattr(tables, table), Path(directory) / name)


def _runs(bases, sources, tunings, seeds, reference, reference_base) -> pd.DataFrame:
    rows = []
    for base in bases:
        rows.append(_run(f"{base}-untuned", base, "base"))
        for tuning in tunings:
            for source in sources:
                if tuning == "frozen" and source != "visual":
                    continue
                for seed in seeds:
                    name = f"{base}-{source}-{tuning}-{seed}"
                    rows.append(_run(name, base, "run", source, tuning, seed))
    if reference:
        rows.append(_run("published-7b", reference_base, "reference"))
    frame = pd.DataFrame(rows, columns=list(tidy.RUNS))
    integers = {name: "Int64" for name, kind in tidy.RUNS.items() if kind == "integer"}
    return frame.astype(integers)


def _run(name, base, kind, source="", tuning="", seed=None) -> dict[str, object]:
    trained = kind == "run"
    return {
        "run": name,
        "label": {"base": base, "reference": "Published 7B"}.get(kind, name),
        "kind": kind,
        "base": base,
        "source": source,
        "instruction_kinds": "all" if trained else "",
        "tuning": tuning,
        "seed": seed,
        "parameters": 6_738_415_616,
        "trainable_parameters": 40_000_000 if trained else None,
        "train_seconds": 61.5 if trained else None,
        "samples": 2000 if trained else None,
        "tokens": 180_000 if trained else None,
    }


def _shift(run: dict[str, object], benchmark: str) -> float:
    if run["kind"] != "run":
        return 0.0
    damp = 0.2 if run["tuning"] == "frozen" else 1.0
    if benchmark.startswith(("truthfulqa", "ethics")):
        return damp * EFFECT.get(run["source"], 0.0)
    return PRICE.get(run["tuning"], 0.0)


def _image(rng, run, scale, items, scores) -> None:
    sees = {"visual": 0.25, "caption": 0.08, "text": 0.02}.get(run["source"], 0.2)
    sees *= 0.6 if run["tuning"] == "frozen" else 1.0
    n = max(6, int(150 * scale))
    vqa = np.clip(np.round(rng.normal(0.25 + sees, 0.4, n) * 10 / 3) * 0.3, 0, 1)
    items.append(_items(run["run"], "image", "vqa", "accuracy", vqa, 3))
    scores.append(_score(run["run"], "image", "vqa", "accuracy", vqa))
    n = max(6, int(180 * scale))
    pope = (rng.random(n) < 0.5 + sees).astype(float)
    items.append(_items(run["run"], "image", "pope", "accuracy", pope, 6))
    scores.append(_score(run["run"], "image", "pope", "accuracy", pope))
    for metric, value in {
        "precision": pope.mean() - 0.02,
        "recall": pope.mean() + 0.05,
        "f1": pope.mean() + 0.01,
        "yes_ratio": 0.55,
    }.items():
        scores.append(_score(run["run"], "image", "pope", metric, pope, value=value))
    n = max(6, int(50 * scale))
    cider = rng.gamma(2.0, (0.1 + sees) / 2, n)
    items.append(_items(run["run"], "image", "captions", "CIDEr", cider, 1))
    for metric, value in {"CIDEr": None, "Bleu_4": sees, "ROUGE_L": 0.2 + sees}.items():
        scores.append(_score(run["run"], "image", "captions", metric, cider, value=value))


def _corrupted(rng, kinds, scores) -> list[dict[str, object]]:
    clean = [row for row in scores if row["suite"] == "image"]
    harm = dict(zip(kinds, np.linspace(0.03, 0.14, len(kinds)), strict=True))
    return [
        {
            **row,
            "suite": "corrupted",
            "benchmark": f"{row['benchmark']}-{kind}-{severity}",
            "value": row["value"] * (1 - harm[kind] * severity + rng.normal(0, 0.01)),
        }
        for row in clean
        for kind in kinds
        for severity in (1, 3, 5)
    ]


def _items(run, suite, benchmark, metric, score, per_cluster) -> pd.DataFrame:
    item = [f"{benchmark}-{i:04d}" for i in range(len(score))]
    cluster = item if per_cluster == 1 else [f"c{i // per_cluster}" for i in range(len(score))]
    return pd.DataFrame(
        {
            "run": run,
            "suite": suite,
            "benchmark": benchmark,
            "metric": metric,
            "item": item,
            "cluster": cluster,
            "prediction": "a",
            "reference": "b",
            "score": score,
            "details": "{}",
        }
    )


def _score(run, suite, benchmark, metric, score, value=None) -> dict[str, object]:
    return {
        "run": run,
        "suite": suite,
        "benchmark": benchmark,
        "metric": metric,
        "value": float(np.mean(score)) if value is None else float(value),
        "stderr": float("nan"),
        "n": len(score),
        "protocol": "current",
        "higher_is_better": metric != "yes_ratio",
    }


def _curves(rng, runs: pd.DataFrame) -> pd.DataFrame:
    frames = []
    floor = {"visual": 0.9, "caption": 1.0, "text": 1.15}
    slow = {"full": 0.0, "lora": 0.15, "qlora": 0.2, "frozen": 0.5}
    for run in runs[runs["kind"] != "reference"].to_dict("records"):
        if run["kind"] == "base":
            stages = {"align": _decay(rng, 60, 4.5, 1.6)}
        else:
            end = floor.get(run["source"], 1.0) + slow.get(run["tuning"], 0.1)
            stages = {"tune": _decay(rng, 150, 2.6, end)}
        for stage, loss in stages.items():
            step = np.arange(1, len(loss) + 1)
            frames.append(
                pd.DataFrame(
                    {
                        "run": run["run"],
                        "stage": stage,
                        "step": step,
                        "epoch": step / len(loss),
                        "loss": loss,
                        "learning_rate": 2e-5 * (1 - step / (len(loss) + 1)),
                    }
                )
            )
    return pd.concat(frames, ignore_index=True) if frames else tidy.empty("curves")


def _decay(rng, steps: int, start: float, end: float) -> np.ndarray:
    clean = end + (start - end) * np.exp(-np.arange(steps) / (steps / 6))
    return clean * rng.lognormal(0, 0.06, steps)
