"""Claims: what may be stated in a study, whom it compares, and how it is judged."""

import copy
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from sight_beyond_text import grid, study
from sight_beyond_text.analysis import tidy
from sight_beyond_text.analysis.claims import judged
from sight_beyond_text.analysis.claims_table import (
    claims_table,
    to_latex,
    to_markdown,
    write_claims_table,
)
from sight_beyond_text.analysis.effects import measure
from sight_beyond_text.analysis.published import reported
from sight_beyond_text.claim_power import _factor, decidable
from sight_beyond_text.errors import UserError
from sight_beyond_text.power import smallest_effects
from sight_beyond_text.study_claims import misfits, pairs

from .synthetic_tables import make_tables

LATE = pytest.mark.campaign
CLAIM = {"text": "Images help", "benchmark": "vqa", "runs": {"source": "visual"}}


@pytest.fixture(scope="module")
def default(repository: Path) -> dict:
    values = yaml.safe_load((repository / "config.yaml").read_text(encoding="utf-8"))
    return {key: value for key, value in values.items() if key not in ("from_cache", "claims")}


@pytest.fixture
def stating(default: dict) -> Callable[..., study.Study]:
    """The default study with other claims."""

    def load(published: list | None = None, **claims) -> study.Study:
        values = copy.deepcopy(default) | {"claims": claims, "published": published or []}
        values["references"] = {"chat": {"model": "micro:models/chat"}}
        return study.load(values)

    return load


# What may be stated


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"benchmark": "vqa2"}, "claims.a.benchmark: 'vqa2': no such benchmark; there are: truth"),
        ({"runs": {"base": "b"}}, "claims.a.runs.base: 'b': no such base; there are: micro-base, "),
        ({"runs": {"source": ["visual", "x"]}}, "claims.a.runs.source: 'x': no such source; there"),
        ({"runs": {"tuning": "x"}}, "claims.a.runs.tuning: 'x': no such tuning; there are: full, "),
        ({"runs": {"seed": 7}}, "claims.a.runs.seed: 7: no such seed; there are: 0"),
        (
            {"runs": {"reference": "x"}},
            "claims.a.runs.reference: 'x': no such reference; there are",
        ),
        (
            {"over": {"reference": "x"}},
            "claims.a.over.reference: 'x': no such reference; there are",
        ),
        ({"over": "text"}, "claims.a.over: found 'text'; allowed: base (the untuned base of each"),
        ({"over": {"sorce": "text"}}, "claims.a.over.sorce: unknown key; did you mean 'source'?"),
        ({"over": {"source": "visual"}}, "claims.a.over: none of the runs has such a partner"),
        (
            {"over": {"base": "b", "source": "text"}},
            "claims.a.over: base and reference stand alone",
        ),
        ({"runs": {"reference": "chat", "seed": 0}}, "claims.a.runs: reference stands alone"),
        ({"at_least": 1, "within": 1}, "claims.a: at_least and within: give one of them"),
        ({"within": -1}, "claims.a.within: found -1; "),
        ({"text": ""}, "claims.a.text: found ''; "),
        ({"runs": {"source": "text", "tuning": "frozen"}}, "claims.a.runs: no run of the grid is"),
    ],
)
def test_a_claim_that_cannot_be_judged_is_refused_in_one_line(stating, change, told) -> None:
    with pytest.raises(UserError) as error:
        stating(a=CLAIM | change)
    assert str(error.value).startswith(told)
    assert "\n" not in str(error.value)


def test_all_wrong_names_are_told_at_once_with_their_lines(default, tmp_path) -> None:
    values = default | {
        "claims": {"a": CLAIM | {"runs": {"source": "vis"}, "over": {"tuning": "ful"}}},
        "published": [{"runs": {"base": "x"}, "benchmark": "y", "value": 1, "source": "z"}],
    }
    path = tmp_path / "study.yaml"
    text = yaml.safe_dump(values)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        study.read(path)
    lines = str(error.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == [
        "claims.a.runs.source",
        "claims.a.over.tuning",
        "published.0.benchmark",
        "published.0.runs.base",
    ]
    for line, part in zip(lines, ("- vis", "ful", "benchmark: y", "- x"), strict=False):
        number = int(line.split(":")[1])
        around = text.splitlines()[number - 1 : number + 1]
        assert part.removeprefix("- ") in " ".join(around)


def test_a_claim_that_is_made_twice_is_refused(stating) -> None:
    with pytest.raises(UserError, match=r"^claims\.b: says the same as claims\.a; remove one$"):
        stating(a=CLAIM, b=CLAIM | {"text": "In other words", "runs": {"source": ["visual"]}})


def test_an_unknown_key_of_a_published_value_lists_those_of_its_place(stating) -> None:
    with pytest.raises(UserError, match="published.0.valu: unknown key; did you mean 'value'?"):
        stating([{"runs": {}, "benchmark": "vqa", "value": 1, "valu": 1, "source": "x"}])


# Whom it compares


@pytest.mark.parametrize(
    ("change", "count"),
    [
        ({}, 8),
        ({"over": "base"}, 8),
        ({"over": {"source": "text"}}, 6),  # frozen has no twin without images
        ({"over": {"source": "text", "tuning": "full"}}, 8),
        ({"over": {"tuning": "full"}}, 6),
        ({"over": {"base": "micro-chat"}}, 8),
        ({"over": {"reference": "chat"}}, 8),
        ({"runs": {}, "over": {"source": "text"}}, 12),
        ({"runs": {"reference": "chat"}, "over": {"base": "micro-base"}}, 1),
        ({"runs": {"reference": "chat"}}, 1),  # its model is a base of the study
    ],
)
def test_each_run_is_compared_with_the_partner_that_is_named(stating, change, count) -> None:
    made = stating(a=CLAIM | change)
    found = pairs(made, made.claims["a"])
    assert len(found) == len(set(found)) == count
    over = made.claims["a"].over
    for run, other in found:
        if over.base is None and over.reference is None and run.kind == "run":
            assert other.base_name == run.base_name
        if over.source is not None:
            wanted = (over.source, over.tuning or run.tuning, run.seed)
            assert (other.source, other.tuning, other.seed) == wanted


def test_claims_change_no_identity(stating, default) -> None:
    one = study.load(default)
    two = stating([{"runs": {}, "benchmark": "vqa", "value": 1, "source": "x"}], a=CLAIM)
    two = two.model_copy(update={"references": {}})
    assert [s["id"] for s in grid.run_specs(one)] == [s["id"] for s in grid.run_specs(two)]
    assert grid.align_specs(one) == grid.align_specs(two)
    assert grid.evaluation_specs(one) == grid.evaluation_specs(two)
    assert grid.check_spec(one) == grid.check_spec(two)


def test_what_is_compared_names_subjects_that_are_scored(stating) -> None:
    spec = grid.compare_spec(
        stating(
            [{"runs": {"source": "visual"}, "benchmark": "vqa", "value": 1, "source": "x"}],
            a=CLAIM | {"at_most": -2},
            b=CLAIM | {"over": {"reference": "chat"}},
        )
    )
    known = {subject["id"]: subject for subject in spec["subjects"]}
    one, two = spec["claims"]
    assert (one["kind"], one["threshold"]) == ("inferiority", -2.0)
    assert (two["kind"], two["threshold"]) == ("superiority", 0.0)
    for run, other in one["pairs"]:
        assert known[run]["source"] == "visual" and known[other]["kind"] == "base"
        assert known[run]["base_name"] == known[other]["base_name"]
    assert Counter(known[other]["kind"] for _, other in two["pairs"]) == {"reference": 8}
    assert len(spec["published"][0]["runs"]) == 8


def test_the_studies_of_the_repository_state_claims_that_have_pairs(repository) -> None:
    for path in (repository / "config.yaml", *(repository / "workflow/studies").glob("*.yaml")):
        made = study.read(path)
        assert len(made.claims) >= 4 and not list(misfits(made)), path


def test_the_published_headline_stands_in_the_study_of_the_published_grid(repository) -> None:
    paper = study.read(repository / "workflow" / "studies" / "paper.yaml")
    values = {
        (value.benchmark, value.value, bool(value.runs.reference)) for value in paper.published
    }
    assert values == {
        (benchmark, value, released)
        for benchmark, value in (("truthfulqa_mc2", 46.0), ("ethics", 65.4))
        for released in (True, False)
    }
    assert all("summary of the paper" in value.source for value in paper.published)
    over_chat = [c for c in paper.claims.values() if c.over.base == "llama-2-7b-chat"]
    assert {c.benchmark for c in over_chat} == {"truthfulqa_mc2", "ethics"}


# How it is judged


def claim(benchmark: str, compared: list, kind="superiority", threshold=0.0, **more) -> dict:
    """A claim as `grid.compare_spec` gives it; the threshold in points."""
    told = {"claim": "a", "text": "Words", "benchmark": benchmark, "metric": None}
    return told | {"kind": kind, "threshold": threshold, "pairs": compared} | more


def runs_of(seeds: int = 1) -> tuple[pd.DataFrame, list[list[str]]]:
    """A tuned run a seed, their untuned base, and the pairs of them."""
    rows = [{"run": "base", "kind": "base", "base": "b"}]
    for seed in range(seeds):
        cell = {"kind": "run", "base": "b", "source": "visual", "tuning": "full", "seed": seed}
        rows.append({"run": f"run{seed}", **cell})
    made = pd.DataFrame(rows).reindex(columns=list(tidy.RUNS))
    text = [name for name, kind in tidy.RUNS.items() if kind == "text"]
    made[text] = made[text].astype("str").fillna("")
    return made.astype({"seed": "Int64"}), [[f"run{seed}", "base"] for seed in range(seeds)]


def answers(differences: np.ndarray, clusters: int = 1) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Items and scores whose differences to the base are these: (benchmarks, seeds, items)."""
    benchmarks, seeds, items = differences.shape
    scores = np.concatenate([np.zeros((benchmarks, 1, items)), differences], axis=1)
    runs = ["base", *(f"run{seed}" for seed in range(seeds))]
    index = pd.MultiIndex.from_product(
        [[f"b{place:04d}" for place in range(benchmarks)], runs, range(items)],
        names=["benchmark", "run", "number"],
    )
    made = pd.DataFrame({"score": scores.ravel()}, index=index).reset_index()
    made["item"] = made["number"].astype("str")
    whole = (made["number"] // clusters).astype("str")
    made["cluster"] = made["item"] if clusters == 1 else made["benchmark"] + "-" + whole
    made = made.assign(suite="text", metric="acc", prediction="", reference="", details="{}")
    told = made[["run", "suite", "benchmark", "metric"]].drop_duplicates()
    return made[list(tidy.ITEMS)], told.assign(protocol="current")


def verdicts(differences: np.ndarray, clusters: int = 1, draws: int = 400, **stated):
    """Each benchmark is a study of its own with one claim."""
    runs, compared = runs_of(differences.shape[1])
    items, scores = answers(differences, clusters)
    stated = [
        claim(name, compared, **stated, claim=name) for name in sorted(set(items["benchmark"]))
    ]
    return judged(stated, runs, measure(runs, items, draws=draws), scores)


def judge(
    tables: tidy.Tables, *stated: dict, items: pd.DataFrame | None = None, draws: int = 200
) -> dict:
    """The verdict on one claim about a study's tables."""
    measured = measure(tables.runs, tables.items if items is None else items, draws=draws)
    (row,) = judged(list(stated), tables.runs, measured, tables.scores).to_dict("records")
    return row


def outcomes(rng, shape: tuple, mean: float, changed: float = 0.3) -> np.ndarray:
    """Differences of right answers: of a share of them, more rise than fall."""
    chances = [(changed - mean) / 2, 1 - changed, (changed + mean) / 2]
    return rng.choice([-1.0, 0.0, 1.0], size=shape, p=chances)


@pytest.mark.parametrize(
    ("kind", "mean", "low", "high", "verdict"),
    [
        ("superiority", 0.1, 0.0, None, "supported"),
        ("superiority", 0.1, 20, None, "refuted"),
        ("superiority", 0.1, 9, None, "undecided"),
        ("inferiority", 0.1, 20, None, "supported"),
        ("inferiority", 0.1, 0, None, "refuted"),
        ("inferiority", -0.1, -11, None, "undecided"),
        ("equivalence", 0.0, 10, None, "supported"),
        ("equivalence", 0.1, 2, None, "refuted"),
        ("equivalence", -0.1, 2, None, "refuted"),
        ("equivalence", 0.05, 6, None, "undecided"),
    ],
)
def test_the_interval_decides(kind, mean, low, high, verdict) -> None:
    changes = np.repeat([-1.0, 0.0, 1.0], [int(300 - 500 * mean), 400, int(300 + 500 * mean)])
    (row,) = verdicts(changes[None, None], kind=kind, threshold=low).to_dict("records")
    assert row["verdict"] == verdict
    assert row["difference"] == pytest.approx(mean) and row["threshold"] == low / 100
    assert row["low"] < row["difference"] < row["high"]
    assert pd.isna(row["needed_items"]) == (verdict != "undecided")
    if verdict == "undecided":
        assert row["needed_items"] > row["n"] == 1000
    elif kind == "equivalence":
        assert (row["p"] < 0.05) == (verdict == "supported")
    else:
        assert row["p"] < 0.05


def test_chance_supports_or_refutes_what_is_at_its_threshold_in_five_of_a_hundred() -> None:
    rng = np.random.default_rng(0)
    shared = outcomes(rng, (200, 1, 120), 0.05)
    found = verdicts(shared, threshold=5)["verdict"].value_counts(normalize=True)
    # Half of five per cent lie on either side.
    assert found.get("supported", 0) <= 0.05 and found.get("refuted", 0) <= 0.05
    found = verdicts(shared, kind="equivalence", threshold=5)["verdict"]
    assert (found == "supported").mean() < 0.09 and (found == "refuted").mean() < 0.09


@pytest.mark.slow
def test_chance_decides_no_more_often_with_clusters_and_several_seeds() -> None:
    rng = np.random.default_rng(1)
    # What questions of a passage share, what a seed does to all, and what it does to one.
    passages = np.repeat(rng.normal(0, 0.2, (600, 1, 60)), 3, axis=2)
    seeds = rng.normal(0, 0.04, (600, 3, 1))
    made = 0.05 + passages + seeds + rng.normal(0, 0.5, (600, 3, 180))
    for kind, most in (("superiority", 0.05), ("inferiority", 0.05), ("equivalence", 0.075)):
        found = verdicts(made, 3, kind=kind, threshold=5)["verdict"]
        assert (found == "supported").mean() < most, kind
        assert (found == "refuted").mean() < most, kind
    within = verdicts(made, 3, threshold=0)
    covered = (within["low"] < 0.05) & (0.05 < within["high"])
    assert 0.93 < covered.mean() < 0.985


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mean", "stated"),
    [
        (0.04, {"threshold": 0.0}),
        (0.02, {"threshold": 6.0, "kind": "equivalence"}),
        pytest.param(0.04, {"threshold": 8.0, "kind": "inferiority"}, marks=LATE),
        pytest.param(0.0, {"threshold": 4.0, "kind": "equivalence"}, marks=LATE),
        pytest.param(0.08, {"threshold": 4.0, "kind": "equivalence"}, marks=LATE),
    ],
)
def test_so_many_items_decide_as_an_undecided_claim_says(mean, stated) -> None:
    n = 200
    rise, fall = round(n * (0.3 + mean) / 2), round(n * (0.3 - mean) / 2)
    changes = np.repeat([-1.0, 0.0, 1.0], [fall, n - rise - fall, rise])
    (row,) = verdicts(changes[None, None], draws=4000, **stated).to_dict("records")
    assert row["verdict"] == "undecided" and row["needed_items"] > n
    rng = np.random.default_rng(2)
    again = verdicts(outcomes(rng, (500, 1, int(row["needed_items"])), mean), **stated)
    assert 0.74 < (again["verdict"] != "undecided").mean() < 0.87


@pytest.mark.slow
def test_so_many_seeds_decide_as_an_undecided_claim_says() -> None:
    rng = np.random.default_rng(3)
    n, between = 400, 0.03
    own = np.array([-1.0, -1, 0, 1, 1])
    # Seeds' means differ by what single answers vary, too.
    own = own / own.std(ddof=1) * np.hypot(between, 0.3 / np.sqrt(n))
    noise = rng.normal(0, 0.3, (1, 5, n))
    noise -= noise.mean(axis=2, keepdims=True)
    made = 0.03 + own[None, :, None] + noise
    (row,) = verdicts(made, draws=4000).to_dict("records")
    assert row["verdict"] == "undecided" and row["seeds"] == 5
    assert 6 <= row["needed_seeds"] <= 20
    # More questions alone leave what the seeds differ by.
    assert pd.isna(row["needed_items"])
    seeds = int(row["needed_seeds"])
    many = 0.03 + rng.normal(0, between, (400, seeds, 1)) + rng.normal(0, 0.3, (400, seeds, n))
    assert 0.74 < (verdicts(many, draws=50)["verdict"] != "undecided").mean() < 0.87


def test_a_claim_of_one_pair_has_the_interval_of_its_effect() -> None:
    tables = make_tables(scale=0.3, draws=2000, bases=("m",), tunings=("full",))
    for benchmark in ("truthfulqa_mc2", "vqa", "ethics"):
        effects = tables.effects[tables.effects["benchmark"] == benchmark]
        effect = effects[effects["metric"].isin(("acc", "accuracy"))].iloc[0]
        stated = [claim(benchmark, [[effect["run"], effect["other"]]])]
        row = judge(tables, *stated, draws=2000)
        for key in ("difference", "low", "high", "n", "n_clusters", "protocol"):
            assert row[key] == pytest.approx(effect[key]) if key != "protocol" else True
        assert row["protocol"] == effect["protocol"] == "current"
        assert row["pairs"] == 1 and row["pairs_alone"] == (row["low"] > 0)


@pytest.mark.parametrize("benchmark", ["text_mean", "image_mean"])
def test_a_claim_about_a_mean_is_about_that_of_the_effects(benchmark) -> None:
    tables = make_tables(scale=0.3, draws=2000, bases=("m",), tunings=("full",))
    effects = tables.effects[tables.effects["benchmark"] == benchmark]
    if effects.empty:
        pytest.skip("no such mean among the effects")
    effect = effects.iloc[0]
    stated = [claim(benchmark, [[effect["run"], effect["other"]]])]
    row = judge(tables, *stated, draws=2000)
    for key in ("difference", "low", "high", "n"):
        assert row[key] == pytest.approx(effect[key])


def test_pairs_are_pooled_and_told_apart() -> None:
    tables = make_tables(scale=0.3, draws=5, sources=("visual", "text"))
    runs = tables.runs
    visual = runs[(runs["source"] == "visual") & (runs["tuning"] != "frozen")]["run"]
    compared = [[run, run.replace("visual", "text")] for run in visual]
    stated = [claim("vqa", compared, threshold=10.0)]
    row = judge(tables, *stated)
    own = tables.effects[
        (tables.effects["contrast"] == "visual - text") & (tables.effects["benchmark"] == "vqa")
    ]
    assert row["difference"] == pytest.approx(own["difference"].mean())
    assert row["verdict"] == "supported" and row["pairs"] == 6
    assert 1 <= row["pairs_alone"] <= 6


def test_holm_counts_the_claims_that_were_tested() -> None:
    rng = np.random.default_rng(4)
    found = verdicts(outcomes(rng, (5, 1, 100), 0.06))
    p, adjusted = found["p"].to_numpy(), found["p_holm"].to_numpy()
    assert adjusted[p.argmin()] == pytest.approx(min(1, 5 * p.min()))
    assert (adjusted >= p).all()


# What can't be judged


@pytest.fixture(scope="module")
def tables() -> tidy.Tables:
    return make_tables(scale=0.5, draws=20, bases=("m",), tunings=("full", "lora"), reference=True)


def test_no_claims_no_rows(tables) -> None:
    made = judged([], tables.runs, measure(tables.runs, tables.items, draws=20), tables.scores)
    assert list(made.columns) == list(tidy.CLAIMS) and made.empty


@pytest.mark.parametrize(
    ("stated", "told"),
    [
        (claim("vqa", [["m-visual-full-0", "m-untuned"]]), "missing: m-untuned"),
        (claim("mme", [["m-visual-full-0", "m-text-full-0"]]), "no items of mme: "),
        (
            claim("pope", [["m-visual-full-0", "m-text-full-0"]], metric="f1"),
            "no items of pope f1: it was not scored, or is no mean over items",
        ),
    ],
)
def test_what_has_no_scores_is_untestable_and_says_what_is_missing(tables, stated, told) -> None:
    row = judge(tables, stated)
    assert row["verdict"] == "untestable" and told in row["reason"]
    assert np.isnan(row["difference"]) and np.isnan(row["p"]) and pd.isna(row["n"])


def test_pairs_that_lack_scores_are_left_out_and_named(tables) -> None:
    failed = "m-visual-lora-0"
    gone = (tables.items["run"] == failed) & (tables.items["benchmark"] == "boolq")
    compared = [[f"m-visual-{tuning}-0", f"m-text-{tuning}-0"] for tuning in ("full", "lora")]
    row = judge(tables, claim("boolq", compared), items=tables.items[~gone])
    assert row["pairs"] == 1
    assert row["reason"] == f"1 of 2 pairs: no scores of {failed}"


def test_other_questions_on_both_sides_are_an_error() -> None:
    items, scores = answers(outcomes(np.random.default_rng(5), (1, 1, 50), 0.1))
    runs, compared = runs_of()
    runs["kind"] = "reference"  # so that it's no effect either, which would refuse it before
    measured = measure(runs, items.drop(items.index[0]), draws=20)
    with pytest.raises(UserError, match="claim a: its runs, .* asked different items of b0000; "):
        judged([claim("b0000", compared)], runs, measured, scores)


def test_a_reference_can_be_compared_with_a_base(tables) -> None:
    row = judge(tables, claim("truthfulqa_mc2", [["published-7b", "m-untuned"]]))
    assert row["seeds"] == 1 and row["verdict"] in ("supported", "refuted", "undecided")


@pytest.mark.parametrize(
    ("n", "margin", "verdict"), [(100, 2.0, "undecided"), (200, 2.0, "supported")]
)
def test_answers_that_never_differ_are_alike_only_if_there_are_enough(n, margin, verdict) -> None:
    (row,) = verdicts(np.zeros((1, 1, n)), kind="equivalence", threshold=margin).to_dict("records")
    assert row["verdict"] == verdict
    if verdict == "undecided":
        # A share of 2 % shows itself among so many in 95 of a hundred cases.
        assert 0.98 ** row["needed_items"] < 0.05 < 0.98 ** (row["needed_items"] - 1)


def test_answers_that_never_differ_say_nothing_of_which_is_higher() -> None:
    (row,) = verdicts(np.zeros((1, 1, 100))).to_dict("records")
    assert row["verdict"] == "undecided" and pd.isna(row["needed_items"])
    assert row["reason"] == "every question has the difference that is the threshold"


def test_an_estimate_on_the_threshold_needs_more_than_more_of_the_same() -> None:
    changes = np.repeat([-1.0, 0.0, 1.0], [50, 100, 50])
    (row,) = verdicts(changes[None, None]).to_dict("records")
    assert row["verdict"] == "undecided" and pd.isna(row["needed_items"])
    assert "too near to the threshold" in row["reason"]


def test_one_cluster_leaves_a_claim_undecided() -> None:
    changes = np.repeat([-1.0, 0.0, 1.0], [10, 100, 50])
    (row,) = verdicts(changes[None, None], clusters=1000).to_dict("records")
    assert row["verdict"] == "undecided" and np.isnan(row["low"])
    assert "one cluster" in row["reason"]


def test_seeds_that_only_some_runs_have_are_left_out() -> None:
    cells = {"bases": ("m",), "sources": ("visual",), "tunings": ("full", "lora")}
    tables = make_tables(scale=0.3, draws=5, seeds=(0, 1, 2), image=False, **cells)
    compared = [
        [f"m-visual-{tuning}-{seed}", "m-untuned"]
        for tuning in ("full", "lora")
        for seed in (0, 1, 2)
        if (tuning, seed) != ("lora", 2)
    ]
    row = judge(tables, claim("boolq", compared))
    assert (row["seeds"], row["pairs"]) == (2, 4)
    assert row["reason"].startswith("only seeds 0, 1, in all runs")


# What others published, and tables for readers


def test_published_values_get_their_metric_and_its_unit(tables) -> None:
    stated = [
        {"benchmark": benchmark, "metric": None, "value": 46.0, "source": "x", "runs": ["a", "b"]}
        for benchmark in ("truthfulqa_mc2", "ethics", "pope", "captions")
    ]
    made = reported(stated, tables.scores).set_index(["run", "benchmark"])
    assert len(made) == 8 and set(made["value"]) == {0.46}
    assert made.loc[("b", "pope"), "metric"] == "accuracy"
    assert made.loc[("a", "captions"), "metric"] == "CIDEr"
    assert made.loc[("a", "ethics"), "metric"] == "acc"
    assert reported([], tables.scores).empty


def test_tables_for_readers_say_everything_and_are_the_same_each_time(tables, tmp_path) -> None:
    compared = [["m-visual-full-0", "m-text-full-0"]]
    stated = [
        claim("vqa", compared, claim="a", text="100 % of_it | better"),
        claim("vqa", compared, claim="b", kind="equivalence", threshold=2.0),
        claim("vqa", compared, claim="c", kind="inferiority", threshold=-2.0),
        claim("mme", compared, claim="d"),
    ]
    measured = measure(tables.runs, tables.items, draws=200)
    made = judged(stated, tables.runs, measured, tables.scores)
    tidy.write_csv(made, tmp_path / tidy.FILES["claims"])
    record = write_claims_table(tmp_path, tmp_path / "out" / "claims_table")
    assert record["files"] == [f"claims_table.{kind}" for kind in ("csv", "md", "tex")]
    assert list(record["tables"]) == ["claims.csv"] and record["claims"] == 4
    table = claims_table(tidy.read_table(tmp_path, "claims"))
    assert list(table["claimed"]) == ["> 0", "within ±2", "≤ −2", "> 0"]
    assert table.loc[3, "why"].startswith("no items of mme")
    assert "100 % of\\_it \\| better" in to_markdown(table)
    assert r"100 \% of\_it \textbar{} better" in to_latex(table)
    first = [(tmp_path / "out" / name).read_bytes() for name in record["files"]]
    write_claims_table(tmp_path, tmp_path / "out" / "claims_table")
    assert first == [(tmp_path / "out" / name).read_bytes() for name in record["files"]]


def test_the_cached_claims_are_what_the_cached_items_say(repository) -> None:
    folder = repository / "figures" / "data" / "micro"
    cached = {name: tidy.read_table(folder, name) for name in ("runs", "items", "scores", "claims")}
    spec = grid.compare_spec(study.read(repository / "config.yaml"))
    # Ids end in a hash of the world, which other versions make otherwise.
    known = {run.rpartition("-")[0]: run for run in cached["runs"]["run"]}
    for stated in spec["claims"]:
        stated["pairs"] = [[known[r.rpartition("-")[0]] for r in own] for own in stated["pairs"]]
    measured = measure(cached["runs"], cached["items"])
    made = judged(spec["claims"], cached["runs"], measured, cached["scores"])
    told = ["claim", "text", "verdict", "benchmark", "metric", "pairs", "pairs_alone", "n"]
    pd.testing.assert_frame_equal(made[told], cached["claims"][told], check_dtype=False)
    numbers = ["difference", "low", "high", "p", "p_holm", "threshold"]
    np.testing.assert_allclose(made[numbers], cached["claims"][numbers], rtol=1e-4, atol=1e-6)


# What a plan tells


def test_a_plan_tells_what_each_claim_takes_to_be_decided(repository, tmp_path, monkeypatch):
    made = study.read(repository / "workflow" / "studies" / "paper.yaml")
    monkeypatch.chdir(tmp_path)
    effects = {row["benchmark"]: row for row in smallest_effects(made)}
    rows = {row["claim"]: row for row in decidable(made, list(effects.values()))}
    assert list(rows) == list(made.claims)
    row = rows["beats-chat-on-ethics"]
    assert row["distance"] == pytest.approx(100 * effects["ethics"]["pair"])
    assert (row["pairs"], row["from"], row["decides"]) == (1, "assumed", None)
    row = rows["captions-do-as-well"]
    # A margin of one point is too fine for 817 questions.
    assert row["kind"] == "equivalence" and row["decides"] is False and row["distance"] > 1


def test_a_plan_knows_the_claims_that_were_judged(repository, monkeypatch):
    monkeypatch.chdir(repository)
    made = study.read("config.yaml")
    rows = {row["claim"]: row for row in decidable(made, smallest_effects(made))}
    judged_then = tidy.read_table("figures/data/micro", "claims").set_index("claim")
    assert {row["from"] for row in rows.values()} == {"measured"}
    row, then = rows["images-teach-vqa"], judged_then.loc["images-teach-vqa"]
    half = 100 * (then["high"] - then["low"]) / 2
    assert row["distance"] == pytest.approx(half * (1.96 + 0.8416) / 1.96, rel=1e-3)
    # It came out supported, which happens less often than in 80 of a hundred such studies.
    row = rows["captions-teach-no-vqa"]
    assert row["decides"] is False and row["distance"] == pytest.approx(3.2, abs=0.2)


def test_what_a_plan_says_is_decided_is_decided_so_often() -> None:
    rng = np.random.default_rng(6)
    error = np.sqrt(0.3 / 300)
    for kind, threshold, mean in (
        ("superiority", 0.0, error * _factor("superiority")),
        ("equivalence", 100 * error * _factor("equivalence"), 0.0),
    ):
        found = verdicts(outcomes(rng, (150, 1, 300), mean), kind=kind, threshold=threshold)
        assert 0.7 < (found["verdict"] == "supported").mean() < 0.9, kind


def test_a_mean_over_benchmarks_is_as_sure_as_its_parts(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load((repository / "config.yaml").read_text(encoding="utf-8"))
    del values["from_cache"]
    values["claims"] = {"a": CLAIM | {"benchmark": "image_mean"}}
    made = study.load(values)
    effects = [
        {"benchmark": name, "metric": metric, "pair": pair, "seeds": None, "from": "assumed"}
        for name, metric, pair in (
            ("vqa", None, 0.03),
            ("pope", None, 0.04),
            ("captions", "CIDEr", 9),
        )
    ]
    (row,) = decidable(made, effects)
    assert row["distance"] == pytest.approx(2.5)
