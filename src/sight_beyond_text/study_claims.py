"""What a study claims, and what others published: whom it is about, whom it is compared with.

Light: neither torch nor pandas. `analysis.claims` judges the claims, from the items.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field, model_validator

from sight_beyond_text.analysis import names
from sight_beyond_text.study_model import Model, Name

if TYPE_CHECKING:
    from sight_beyond_text.study import Study

OWN_BASE = "base"
"""Word for the untuned base of each run."""
KINDS = {"at_least": "superiority", "at_most": "inferiority", "within": "equivalence"}
"""How a claim is tested, by the key that states its threshold."""


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str | int) and not isinstance(value, bool) else value


Names = Annotated[list[Name], BeforeValidator(_listed, json_schema_input_type=Name | list[Name])]
Seeds = Annotated[list[int], BeforeValidator(_listed, json_schema_input_type=int | list[int])]


class Runs(Model):
    """Which runs; what isn't named is any. Or references, which are only evaluated."""

    base: Names = Field(default_factory=list, description="Tuned from these bases.")
    source: Names = Field(default_factory=list, description="Tuned on these sources.")
    tuning: Names = Field(default_factory=list, description="Tuned in these ways.")
    seed: Seeds = Field(default_factory=list, description="With these seeds.")
    reference: Names = Field(
        default_factory=list, description="These references, in place of runs."
    )

    @model_validator(mode="after")
    def _runs_or_references(self) -> Runs:
        if self.reference and (self.base or self.source or self.tuning or self.seed):
            raise ValueError(
                "reference stands alone: references are no runs, so base, source, tuning and seed"
                " say nothing of them; remove one or the other"
            )
        return self


class Over(Model):
    """What each run is compared with: without any key, the untuned base that it was tuned from."""

    source: Name | None = Field(None, description="The same run but for this source.")
    tuning: Name | None = Field(None, description="The same run but for this tuning.")
    base: Name | None = Field(None, description="This untuned base, whatever the run's own.")
    reference: Name | None = Field(None, description="This reference.")

    @model_validator(mode="after")
    def _one_partner(self) -> Over:
        alone = [key for key in ("base", "reference") if getattr(self, key) is not None]
        if len(alone) + (self.source is not None or self.tuning is not None) > 1:
            raise ValueError(
                "base and reference stand alone; only source and tuning go together: "
                "name one partner"
            )
        return self


def _partner(value: Any) -> Any:
    if value == OWN_BASE:
        return {}
    if isinstance(value, str):
        raise ValueError(
            f"found {value!r}; allowed: base (the untuned base of each run), or a mapping with "
            "source, tuning, base or reference"
        )
    if value == {}:
        raise ValueError("names no partner; write base for the untuned base of each run")
    return value


Partner = Annotated[Over, BeforeValidator(_partner, json_schema_input_type=Literal["base"] | Over)]


class Claim(Model):
    """A statement about runs, judged by their answers to the same questions."""

    text: str = Field(min_length=1, description="The claim in words, as readers see it.")
    benchmark: Name = Field(
        description="A benchmark of the study; or ethics, text_mean, image_mean: means of several."
    )
    metric: str | None = Field(None, description="Its metric; its main one by default.")
    runs: Runs = Field(default_factory=Runs, description="Which runs; all by default.")
    over: Partner = Field(
        default_factory=Over,
        description="What each run is compared with: base (its own, untuned), or a mapping.",
    )
    at_least: float | None = Field(
        None,
        description="Points (of a hundred, where scores are shares) by which the runs are higher,"
        " at least; 0 by default.",
    )
    at_most: float | None = Field(
        None, description="Points by which they are higher, at most; -2: lower by two or more."
    )
    within: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Points by which they differ, at most: a test of equivalence."
    )

    @model_validator(mode="after")
    def _one_threshold(self) -> Claim:
        given = [key for key in KINDS if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)}: give one of them")
        return self

    @property
    def threshold(self) -> tuple[str, float]:
        """How it is tested (a value of `KINDS`), and the threshold or margin in points."""
        for key, kind in KINDS.items():
            value = getattr(self, key)
            if value is not None:
                return kind, float(value)
        return KINDS["at_least"], 0.0


class Published(Model):
    """A value that others reported, beside which ours is shown."""

    runs: Runs = Field(description="Which of the study's runs, or references, it stands beside.")
    benchmark: Name = Field(description="A benchmark of the study, or a mean of several.")
    metric: str | None = Field(None, description="Its metric; its main one by default.")
    value: float = Field(description="In points, as tables show it.")
    source: str = Field(min_length=1, description="Where it was reported, and how.")


class Side(NamedTuple):
    """One side of a comparison, as `grid.subjects` tells of it."""

    kind: str
    base_name: str
    source: str | None = None
    tuning: str | None = None
    seed: int | None = None


def chosen(study: Study, runs: Runs) -> list[Side]:
    """The runs of the grid, or the references, that a selection names."""
    if runs.reference:
        return [Side("reference", name) for name in runs.reference]
    return [
        Side("run", **{"base_name": cell.base}, **cell.model_dump(exclude={"base"}))
        for cell in study.cells()[0]
        if all(
            not wanted or getattr(cell, axis) in wanted
            for axis, wanted in runs.model_dump(exclude={"reference"}).items()
        )
    ]


def pairs(study: Study, claim: Claim) -> list[tuple[Side, Side]]:
    """Whom a claim compares: each run with its partner; runs without one are left out."""
    sides, over = chosen(study, claim.runs), claim.over
    if over.reference is not None or over.base is not None:
        kind = "reference" if over.reference is not None else "base"
        partner = Side(kind, over.reference or over.base)
        return [(side, partner) for side in sides if side != partner]
    if over.source is None and over.tuning is None:
        # A reference that names a base's own model was tuned from that base.
        own = {name: name for name in study.bases} | _bases_of_references(study)
        return [
            (side, Side("base", own[side.base_name])) for side in sides if side.base_name in own
        ]
    there = set(chosen(study, Runs()))
    found = []
    for side in sides:
        other = side._replace(source=over.source or side.source, tuning=over.tuning or side.tuning)
        if other in there and other != side:
            found.append((side, other))
    return found


def _bases_of_references(study: Study) -> dict[str, str]:
    models = {(base.model, base.revision): name for name, base in study.bases.items()}
    return {
        name: models[reference.model, reference.revision]
        for name, reference in study.references.items()
        if (reference.model, reference.revision) in models
    }


def suites(study: Study) -> dict[str, list[str]]:
    """What claims may be about, each with the benchmarks that it is made of.

    The means over several: `ethics` where all five subsets are scored, `text_mean`, `image_mean`.
    """
    text, image = list(study.evaluation.text), list(study.evaluation.image)
    made = {name: [name] for name in (*text, *image)}
    for name, benchmark in study.evaluation.image.items():
        for kind, severity in benchmark.corruptions.pairs() if benchmark.corruptions else []:
            made[f"{name}-{kind}-{severity}"] = [name]
    if set(names.ETHICS) <= set(text):
        made[names.MACRO] = list(names.ETHICS)
    for name, parts in (("text_mean", text), ("image_mean", image)):
        if parts:
            made[name] = parts
    return made


def misfits(study: Study) -> Iterator[tuple[Sequence[str | int], str]]:
    """What a study's claims and published values name that isn't there: (place, what to say)."""
    benchmarks = suites(study)
    known = {
        "base": list(study.bases),
        "source": list(study.sources),
        "tuning": list(study.tunings),
        "seed": study.seeds,
        "reference": list(study.references),
    }
    plain = [name for name in benchmarks if name not in _corrupted(study)]
    seen: dict[str, str] = {}
    stated = [("claims", name, claim) for name, claim in study.claims.items()]
    stated += [("published", number, value) for number, value in enumerate(study.published)]
    for section, name, entry in stated:
        wrong = False
        if entry.benchmark not in benchmarks:
            wrong = True
            yield (
                (section, name, "benchmark"),
                f"{entry.benchmark!r}: no such benchmark; there are: {', '.join(plain)}",
            )
        for part in ("runs", "over"):
            asked = getattr(entry, part, None)
            for axis, values in (asked.model_dump() if asked else {}).items():
                for value in values if isinstance(values, list) else [values]:
                    if value is not None and value not in known[axis]:
                        wrong = True
                        there = ", ".join(map(str, known[axis])) or "none"
                        yield (
                            (section, name, part, axis),
                            f"{value!r}: no such {axis}; there are: {there}",
                        )
        if wrong:
            continue
        if not chosen(study, entry.runs):
            yield (section, name, "runs"), "no run of the grid is meant; name others"
        elif section == "claims":
            if not pairs(study, entry):
                yield (
                    (section, name, "over"),
                    "none of the runs has such a partner in the study; name another, or other runs",
                )
            same = entry.model_dump_json(exclude={"text"})
            if same in seen:
                yield (section, name), f"says the same as claims.{seen[same]}; remove one"
            seen.setdefault(same, name)


def _corrupted(study: Study) -> set[str]:
    """Names of corrupted twins: there may be hundreds."""
    return set(suites(study)) - {
        *study.evaluation.text, *study.evaluation.image, names.MACRO, "text_mean", "image_mean"
    }  # fmt: skip
