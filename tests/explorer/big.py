"""Tables of a big study that never ran: 50 runs, 20,000 questions each."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from sight_beyond_text.analysis import tidy

TASKS = {
    # suite, benchmark: metric, items, choices (0: free answers), words of a question
    ("text", "mmlu"): ("acc", 0.66, 4, 40),
    ("text", "boolq"): ("acc", 0.1, 2, 90),
    ("image", "vqa"): ("accuracy", 0.24, 0, 8),
}
_WORDS = np.array([f"{a}{b}" for a in ("ka", "lo", "mi", "nu", "pe") for b in ("ra", "so", "ti")])


def write_big(directory: Path, runs: int = 50, items: int = 20_000, seed: int = 0) -> None:
    """Writes all tables; the sizes are those of real benchmarks, the words nobody's."""
    rng = np.random.default_rng(seed)
    names = [f"base-{n % 5}-visual-lora-s{n}" for n in range(runs)]
    told = {"label": "base", "kind": "run", "source": "visual", "instruction_kinds": "all"}
    frame = pd.DataFrame({"run": names, **told, "tuning": "lora"})
    frame["base"] = [f"base-{n % 5}" for n in range(runs)]
    frame["seed"] = range(runs)
    frame["train_seconds"] = 1.5
    for name in ("parameters", "trainable_parameters", "samples", "tokens"):
        frame[name] = 7_000_000_000
    parts, scores = [], []
    for (suite, benchmark), (metric, share, choices, words) in TASKS.items():
        n = int(items * share)
        asked = [" ".join(rng.choice(_WORDS, words)) for _ in range(n)]
        offered = [[f"{w} {i}" for i, w in enumerate(rng.choice(_WORDS, choices))] for _ in asked]
        right = rng.integers(0, max(choices, 1), n)
        for run in names:
            if choices:
                found = np.round(rng.normal(-60, 25, (n, choices)), 6)
                picks = found.argmax(1)
                score = (picks == right).astype(float)
                said = [own[pick] for own, pick in zip(offered, picks, strict=True)]
                more = [
                    {"choices": own, "loglikelihoods": list(values), "prompt": "0123456789abcdef"}
                    for own, values in zip(offered, found, strict=True)
                ]
                reference = [own[place] for own, place in zip(offered, right, strict=True)]
            else:
                said = list(rng.choice(_WORDS, n))
                score = np.round(rng.random(n), 1)
                more = [{"image": f"{i // 3:012d}.jpg", "parsed": s} for i, s in enumerate(said)]
                reference = ["kara"] * n
            details = [
                json.dumps({"question": q, **own}) for q, own in zip(asked, more, strict=True)
            ]
            item = [f"{benchmark}/{i}" for i in range(n)]
            own = {"run": run, "suite": suite, "benchmark": benchmark, "metric": metric}
            own |= {"item": item, "cluster": item, "prediction": said, "reference": reference}
            parts.append(pd.DataFrame({**own, "score": score, "details": details}))
            scores.append(
                {
                    "run": run,
                    "suite": suite,
                    "benchmark": benchmark,
                    "metric": metric,
                    "value": score.mean(),
                    "stderr": 0.01,
                    "n": n,
                    "protocol": "current",
                    "higher_is_better": True,
                }
            )
    for table, name in tidy.FILES.items():
        if name.endswith(".csv"):
            tidy.write_csv(tidy.empty(table), directory / name)
    tidy.write_csv(frame[list(tidy.RUNS)], directory / tidy.FILES["runs"])
    tidy.write_csv(pd.DataFrame(scores), directory / tidy.FILES["scores"])
    tidy.write_parquet(pd.concat(parts, ignore_index=True), directory / tidy.FILES["items"])
