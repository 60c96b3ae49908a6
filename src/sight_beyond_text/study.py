"""The study file: its models, its grid, and the identity of each run. Light: no torch here.

A study is one YAML file. `load` validates it as a whole and reports every mistake at once;
`Study.runs` spans the grid bases x sources x tunings x seeds and prunes cells that mean nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sight_beyond_text.errors import UserError
from sight_beyond_text.study_errors import describe

RECIPE_VERSION = 1
"""Raised when the training code changes what a recipe means, so that old runs aren't reused."""

FORMS = ("visual", "caption", "text")
MODES = ("full", "lora", "qlora", "frozen")
KINDS = ("conversation", "detail", "reasoning")
MICRO = "micro:"
"""Prefix of paths inside the study's own micro world."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Positive = Annotated[int, Field(ge=1, strict=True)]


_MICRO_MODELS = ("models/base", "models/chat", "models/tower")
_MICRO_FOLDERS = ("images", "annotations", "benchmarks", "texts")


class Model(BaseModel):
    """What all parts of a study share: unknown keys are refused, nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Micro(Model):
    """The embedded micro world: drawn scenes, a text corpus, two bases and a vision tower."""

    seed: int = Field(0, description="Everything in the world follows from it.")
    train_images: Positive = Field(3000, description="Scenes to learn from.")
    val_images: Positive = Field(200, description="Scenes to be scored on.")
    documents: Positive = Field(30000, description="Texts that the bases are pretrained on.")
    conversations: Positive = Field(6000, description="Text instructions of micro-chat.")
    vocabulary: Annotated[int, Field(ge=300)] = Field(
        1024, description="Size of the tokenizer's vocabulary."
    )
    hidden_size: Positive = Field(96, description="Width of the micro bases.")
    layers: Positive = Field(4, description="Depth of the micro bases.")
    base_steps: Positive = Field(2000, description="Pretraining steps of micro-base.")
    chat_steps: Positive = Field(
        250, description="Further steps of micro-chat on text instructions."
    )
    tower_steps: Positive = Field(250, description="Contrastive steps of the CLIP tower.")


class Instructions(Model):
    """How instructions are made from COCO annotations, where no file of them is given."""

    conversations: Annotated[int, Field(ge=0)] = Field(1, description="Conversations an image.")
    turns: Positive = Field(3, description="Questions a conversation, at most.")
    detail: Annotated[float, Field(ge=0, le=1)] = Field(
        0.2, description="Share of the images that get a detailed description."
    )
    reasoning: Annotated[float, Field(ge=0, le=1)] = Field(
        0.3, description="Share of the images that get a question to reason about."
    )
    captions_per_image: Positive = Field(1, description="Captions an image for the alignment.")
    max_images: Positive | None = Field(None, description="Use only the first images (by id).")
    seed: int = Field(0, description="Of the choice of questions.")


class Data(Model):
    """What is learned from."""

    images: str = Field(description="Folder of the training images.")
    captions: str | None = Field(None, description="COCO captions of the training images.")
    instances: str | None = Field(None, description="COCO instances of the training images.")
    instructions: str | None = Field(
        None, description="LLaVA-style JSON; without it, instructions are made from COCO."
    )
    alignment: str | None = Field(
        None, description="LLaVA-style JSON for stage 1; without it, the COCO captions serve."
    )
    captions_in_place: Positive = Field(
        5, description="Captions put in the image's place by sources of form caption, at most."
    )
    make: Instructions = Field(default_factory=Instructions, description="Instructions by rule.")

    @model_validator(mode="after")
    def _something_to_learn(self) -> Data:
        if self.captions is None and (self.instructions is None or self.alignment is None):
            raise ValueError("needs captions, unless both instructions and alignment are given")
        if self.instructions is None and self.instances is None:
            raise ValueError("needs instances to make instructions, or instructions")
        return self


class Tower(Model):
    """The frozen vision tower."""

    model: str = Field(description="Hub id or folder of a CLIP or SigLIP model.")
    revision: str | None = Field(None, description="Hub revision to pin.")
    layer: int = Field(-2, description="Hidden state that the projector reads.")
    projector: Literal["linear", "mlp2x_gelu"] = Field("linear", description="Projector's form.")


class Base(Model):
    """A base language model."""

    model: str = Field(description="Hub id or folder of a causal language model.")
    revision: str | None = Field(None, description="Hub revision to pin.")
    template: Literal["v0", "v1", "llava_llama_2", "chat"] = Field(
        "v1", description="Prompt template for instruction tuning."
    )
    label: str | None = Field(None, description="Name in figures.")


class Source(Model):
    """What stands where the image stood, and which instructions are kept."""

    form: Literal["visual", "caption", "text"] = Field(
        description="The image, its captions as text, or nothing."
    )
    kinds: list[Literal["conversation", "detail", "reasoning"]] | Literal["all"] = Field(
        "all", description="Kinds of instruction to learn from."
    )


class Training(Model):
    """How one stage is trained."""

    learning_rate: Annotated[float, Field(gt=0)] = Field(description="Peak learning rate.")
    epochs: Annotated[float, Field(gt=0)] = Field(1, description="Passes over the data.")
    batch_size: Positive = Field(description="Samples a step and device.")
    accumulation: Positive = Field(1, description="Steps whose gradients are summed.")
    warmup: Annotated[float, Field(ge=0, le=1)] = Field(0.03, description="Share of warm-up steps.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="AdamW's weight decay.")
    max_length: Positive = Field(2048, description="Limit in positions, the image's included.")
    max_samples: Positive | None = Field(None, description="Use a seeded subset of this size.")
    max_lost: Annotated[float, Field(ge=0, le=1)] = Field(
        0.01, description="Fail where a larger share of samples would be cut or dropped."
    )
    precision: Literal["fp32", "bf16"] = Field("bf16", description="Computing precision.")
    gradient_checkpointing: bool = Field(True, description="Trade time for memory.")


class Lora(Model):
    """Low-rank adapters."""

    rank: Positive = Field(64, description="Rank.")
    alpha: Positive = Field(16, description="Scale (alpha / rank).")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.05, description="Dropout.")
    targets: list[str] = Field(
        default_factory=lambda: [
            "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
        ],
        description="Names of the LLM's modules that get adapters.",
    )  # fmt: skip


class Tuning(Training):
    """One way of instruction tuning (stage 2)."""

    mode: Literal["full", "lora", "qlora", "frozen"] = Field(
        description="What of the LLM learns: all, adapters, adapters on a 4-bit LLM, nothing."
    )
    projector_learning_rate: Annotated[float, Field(gt=0)] | None = Field(
        None, description="The projector's own learning rate."
    )
    lora: Lora | None = Field(None, description="Adapters; for lora and qlora.")

    @model_validator(mode="after")
    def _adapters_where_used(self) -> Tuning:
        if self.lora is not None and self.mode not in ("lora", "qlora"):
            raise ValueError(f"mode {self.mode!r} has no adapters; remove lora")
        return self


class TextBenchmark(Model):
    """One lm-eval task (or our ETHICS and MMLU names), read from local files or the hub."""

    task: str | None = Field(
        None, description="lm-eval's task name; the benchmark's own by default."
    )
    path: str | None = Field(None, description="Folder with the files in upstream layout.")
    fewshot: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Shots; the task's by default."
    )
    limit: Positive | None = Field(None, description="Only the first items.")


class ImageBenchmark(Model):
    """One image benchmark, read from its official files."""

    type: Literal["vqa", "pope", "captions"] = Field(description="Which evaluator.")
    images: str = Field(description="Folder of the images.")
    questions: str | None = Field(None, description="Question file (vqa, pope).")
    annotations: str | None = Field(None, description="Answers (vqa), references (captions).")
    prompt: str | None = Field(None, description="Words put to the model, `{question}` filled in.")
    limit: Positive | None = Field(None, description="Only the first questions.")
    only_present: bool = Field(
        False, description="Score only questions whose image is in the folder (a sample)."
    )
    max_new_tokens: Positive = Field(10, description="Length limit of an answer.")


class Evaluation(Model):
    """What the runs are scored on."""

    protocol: Literal["current"] = Field("current", description="Settings of the text tasks.")
    batch_size: Positive = Field(32, description="Requests a batch.")
    text: dict[Name, TextBenchmark] = Field(default_factory=dict, description="Text suite.")
    image: dict[Name, ImageBenchmark] = Field(default_factory=dict, description="Image suite.")


class Figures(Model):
    """How figures look. Nothing here re-runs anything but drawing."""

    formats: list[Literal["svg", "png", "pdf"]] = Field(
        default_factory=lambda: ["svg", "png", "pdf"], description="Files a figure."
    )
    palette: dict[str, str] = Field(
        default_factory=dict, description="Colours of sources, tunings."
    )
    width: Annotated[float, Field(gt=1, le=20)] = Field(7.0, description="Width in inches.")
    dpi: Annotated[int, Field(ge=50, le=1200)] = Field(150, description="Of the PNG files.")
    font_size: Annotated[float, Field(ge=4, le=24)] = Field(8.0, description="In points.")


class Study(Model):
    """One study: axes, recipes, benchmarks, figures."""

    name: Name = Field(description="Names the folders of its tables and figures.")
    micro: Micro | None = Field(None, description="Makes a micro world, for paths `micro:...`.")
    data: Data = Field(description="What is learned from.")
    tower: Tower = Field(description="The vision tower.")
    bases: dict[Name, Base] = Field(min_length=1, description="Base language models.")
    sources: dict[Name, Source] = Field(min_length=1, description="Data sources.")
    alignment: Training = Field(description="Stage 1: the projector learns.")
    tunings: dict[Name, Tuning] = Field(min_length=1, description="Stage 2: ways of tuning.")
    seeds: list[int] = Field(
        default_factory=lambda: [0],
        min_length=1,
        description="Seeds.",
        json_schema_extra={"uniqueItems": True},
    )
    references: dict[Name, Base] = Field(
        default_factory=dict, description="Language models that are only evaluated, on text."
    )
    evaluation: Evaluation = Field(default_factory=Evaluation, description="Benchmarks.")
    figures: Figures = Field(default_factory=Figures, description="How figures look.")

    @model_validator(mode="before")
    @classmethod
    def _labels_as_defaults(cls, values: Any) -> Any:
        """A source or tuning that bears the name of a form or mode needn't repeat it."""
        if not isinstance(values, Mapping):
            return values
        values = dict(values)
        for axis, key, known in (("sources", "form", FORMS), ("tunings", "mode", MODES)):
            if isinstance(values.get(axis), Mapping):
                values[axis] = {
                    name: {key: name, **(entry or {})}
                    if name in known and isinstance(entry, Mapping | None)
                    else entry
                    for name, entry in values[axis].items()
                }
        return values

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"found {seeds}; each seed may be given only once")
        return seeds

    @model_validator(mode="after")
    def _micro_paths_are_in_the_world(self) -> Study:
        for path in _strings(self.model_dump()):
            if not path.startswith(MICRO):
                continue
            if self.micro is None:
                raise ValueError(f"{path!r} needs a micro world; add `micro: {{}}`")
            inside = path.removeprefix(MICRO)
            parts = inside.split("/")
            if inside not in _MICRO_MODELS and parts[0] not in _MICRO_FOLDERS:
                allowed = ", ".join((*_MICRO_MODELS, *(f"{name}/..." for name in _MICRO_FOLDERS)))
                raise ValueError(f"{path!r} isn't in the micro world; there are: {allowed}")
        return self

    @model_validator(mode="after")
    def _captions_where_used(self) -> Study:
        if self.data.captions is None:
            for name, source in self.sources.items():
                if source.form == "caption":
                    raise ValueError(f"sources.{name} needs data.captions (COCO captions)")
        return self

    @cached_property
    def world(self) -> str | None:
        """The micro world's folder, named after what it is made from."""
        if self.micro is None:
            return None
        return f"resources/micro/{digest({'version': RECIPE_VERSION, **self.micro.model_dump()})}"

    def path(self, given: str) -> str:
        """Where a path of the study lies: `micro:...` inside the world, else as it is."""
        return f"{self.world}/{given.removeprefix(MICRO)}" if given.startswith(MICRO) else given

    def cells(self) -> tuple[list[Cell], list[tuple[Cell, str]]]:
        """The grid: the cells to train, and those pruned, each with the reason."""
        kept, pruned = [], []
        for base in self.bases:
            for source, data in self.sources.items():
                for tuning, recipe in self.tunings.items():
                    for seed in self.seeds:
                        cell = Cell(base=base, source=source, tuning=tuning, seed=seed)
                        if recipe.mode == "frozen" and data.form != "visual":
                            pruned.append((cell, "frozen without images: nothing would learn"))
                        else:
                            kept.append(cell)
        return kept, pruned


class Cell(Model):
    """One cell of the grid, by the study's own labels."""

    base: str
    source: str
    tuning: str
    seed: int


def digest(recipe: Any) -> str:
    """8 hex digits of a JSON-able recipe; the order of keys doesn't matter."""
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def load(values: Mapping[str, Any], files: list[str | Path] | None = None) -> Study:
    """Validates a study.

    Args:
        values: the study as read from YAML.
        files: the files that it was read from, so that errors can say where.

    Raises:
        UserError: all mistakes, a line each: file and line, key, what was found, what is allowed.
    """
    try:
        return Study.model_validate(values)
    except ValidationError as error:
        raise UserError(describe(error, Study, files or [])) from None


def read(path: str | Path) -> Study:
    """Reads and validates a study file.

    Raises:
        UserError: the file is missing, not YAML, or not a valid study.
    """
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such study file; give the path of a YAML file") from None
    except OSError as error:
        raise UserError(f"{path}: the study can't be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f":{where.line + 1}" if where else ""
        raise UserError(
            f"{path}{line}: not YAML: {getattr(error, 'problem', None) or error}"
        ) from None
    if not isinstance(values, Mapping):
        raise UserError(f"{path}: a study is a mapping of keys, found {type(values).__name__}")
    values = {key: value for key, value in values.items() if key != "from_cache"}
    return load(values, [path])


def schema() -> dict:
    """The JSON schema of a study file."""
    made = Study.model_json_schema()
    made["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    made["title"] = "A study of Sight Beyond Text"
    made["properties"]["from_cache"] = {
        "type": "boolean",
        "default": False,
        "description": "Draw from figures/data/<name>/ alone; no training rule is in the DAG then.",
    }
    # A source or tuning with a known name may leave its form or mode out.
    for part, key in (("Source", "form"), ("Tuning", "mode")):
        made["$defs"][part]["required"] = [
            name for name in made["$defs"][part].get("required", []) if name != key
        ]
    for axis in ("sources", "tunings"):
        names = made["properties"][axis]["patternProperties"]
        for pattern, item in names.items():
            names[pattern] = {"anyOf": [item, {"type": "null"}]}
    # Pydantic gives the pattern of labels, but lets other labels pass.
    for part in (made, *made["$defs"].values()):
        for value in part["properties"].values():
            if "patternProperties" in value:
                value["additionalProperties"] = False
    return made


def _strings(value: Any):
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)
