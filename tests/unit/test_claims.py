"""Claims: what may be stated in a study, whom it compares, and how it is judged."""

import copy
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from sight_beyond_text import grid, study
from sight_beyond_text.errors import UserError
from sight_beyond_text.study_claims import misfits, pairs

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
