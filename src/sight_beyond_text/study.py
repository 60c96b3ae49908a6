"""The study file: its models, its grid, and the identity of each run. Light: no torch here.

A study is one YAML file. `load` validates it as a whole and reports every mistake at once;
`Study.runs` spans the grid bases x sources x tunings x seeds and prunes cells that mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from sight_beyond_text import presets
from sight_beyond_text.errors import UserError
from sight_beyond_text.files import digest
from sight_beyond_text.hardware import GPUS
from sight_beyond_text.study_claims import Claim, Published, misfits
from sight_beyond_text.study_errors import describe, where
from sight_beyond_text.study_model import Model, Name

RECIPE_VERSION = 2
"""Raised when the training code changes what a recipe means, so that old runs aren't reused."""
BF16_RECIPE_VERSION = 3
"""That of trainings in bf16: what learns starts in float32 now, not rounded."""

WORLD_VERSION = 3
"""Raised when the micro world comes out otherwise from the same settings."""

FORMS = ("visual", "caption", "text")
MODES = ("full", "lora", "qlora", "frozen")
KINDS = ("conversation", "detail", "reasoning")
MICRO = "micro:"
"""Prefix of paths inside the study's own micro world."""
RESOURCE = "resource:"
"""Prefix of paths inside one of the study's resources."""
FETCHED = "resources/fetched"
"""Folder of what was fetched."""
IMPORTED = "resources/imported"
"""Folder of released weights in this project's form."""
RELEASED_FILES = ["*.json", "*.safetensors", "*.bin", "tokenizer.model"]
"""What is read of released weights."""

Positive = Annotated[int, Field(ge=1, strict=True)]


Corruption = Literal[
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur",
    "zoom_blur", "snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate",
    "jpeg_compression", "speckle_noise", "gaussian_blur", "spatter", "saturate",
]  # fmt: skip
"""Kinds of image corruption (`evaluation.corruptions`)."""

Subtask = Literal[
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark",
    "artwork", "OCR", "commonsense_reasoning", "numerical_calculation", "text_translation",
    "code_reasoning",
]  # fmt: skip
"""Subtasks of MME (`evaluation.scorers.mme`)."""

_MICRO_MODELS = ("models/base", "models/chat", "models/tower")
_MICRO_FOLDERS = ("images", "annotations", "benchmarks", "texts")


def _unless_preset(schema: dict) -> None:
    """In the JSON schema, what a preset can give is required only without one."""
    needed = [name for name in schema.pop("required", []) if name != "mode"]
    schema["anyOf"] = [{"required": ["preset"]}, {"required": needed}]


class WithPreset(Model):
    """A part of a study whose values a published recipe can give."""

    model_config = ConfigDict(json_schema_extra=_unless_preset)

    preset: Literal[presets.NAMES] | None = Field(
        None, exclude=True, description="A published recipe, for all that isn't given here."
    )


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
    base_steps: Positive = Field(1200, description="Pretraining steps of micro-base.")
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


class Item(Model):
    """What a resource is made of: a file at an address, or files of a repository on the hub."""

    url: str | None = Field(None, pattern="^https?://", description="Address of a file.")
    checksum: str | None = Field(
        None,
        pattern="^(sha256:[0-9a-f]{64}|md5:[0-9a-f]{32})$",
        description="Of the file at url; without one, that of the first download is kept to.",
    )
    size: Positive | None = Field(None, description="Bytes of the file at url.")
    repo: str | None = Field(
        None, pattern=r"^[\w.-]+/[\w.-]+$", description="Repository on the hub (owner/name)."
    )
    kind: Literal["dataset", "model"] = Field("dataset", description="What the repository holds.")
    revision: str | None = Field(
        None, description="Commit or tag; without one, the first commit that came is kept to."
    )
    files: list[str] | None = Field(
        None, description="Only these files of the repository; * stands for anything."
    )
    unpack: bool = Field(False, description="Unpack it (zip, tar) into the resource's folder.")
    inside: str | None = Field(
        None, description="Unpack only this folder of the archive, without its name."
    )

    @model_validator(mode="after")
    def _one_place(self) -> Item:
        if (self.url is None) == (self.repo is None):
            raise ValueError("needs either url or repo")
        own = {"url": ("revision", "files"), "repo": ("checksum", "size")}
        given, other = ("url", "repo") if self.url is not None else ("repo", "url")
        for key in own[given]:
            if getattr(self, key) is not None:
                raise ValueError(f"{key} is for {other}; remove it")
        if self.inside is not None and not self.unpack:
            raise ValueError("inside needs unpack: true")
        return self


class Resource(Model):
    """A folder of files that are fetched once, for paths `resource:<name>/...`."""

    items: list[Item] = Field(
        default_factory=list, description="What it is made of; all goes to one folder."
    )
    local: str | None = Field(
        None, description="A folder of one's own that stands for it; nothing is fetched then."
    )
    gib: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Room that it takes, about, for `sight plan`."
    )

    @model_validator(mode="after")
    def _from_somewhere(self) -> Resource:
        if not self.items and self.local is None:
            raise ValueError("needs items to fetch, or local")
        return self


class Data(Model):
    """What is learned from."""

    images: str = Field(description="Folder of the training images.")
    captions: str | None = Field(
        None,
        description="COCO captions of the training images; or LLaVA's contexts (.jsonl), which"
        " hold boxes too.",
    )
    instances: str | None = Field(None, description="COCO instances of the training images.")
    instructions: str | None = Field(
        None, description="LLaVA-style JSON; without it, instructions are made from COCO."
    )
    alignment: str | None = Field(
        None, description="LLaVA-style JSON for stage 1; without it, the COCO captions serve."
    )
    kinds: dict[Literal["conversation", "detail", "reasoning"], str] = Field(
        default_factory=dict,
        description="LLaVA's files of one kind each, which tell the kinds of samples by their ids.",
    )
    captions_in_place: Positive = Field(
        5, description="Captions put in the image's place by sources of form caption, at most."
    )
    leakage: Literal["ignore", "refuse", "drop"] = Field(
        "ignore",
        description="What to do where photos or text questions of the evaluation stand in the"
        " training data: nothing, stop before training, or leave those samples out.",
    )
    make: Instructions = Field(default_factory=Instructions, description="Instructions by rule.")
    feature_cache_gib: Annotated[float, Field(ge=0)] = Field(
        8.0, description="Room for the tower's features of photos to learn from, for all runs."
    )

    @model_validator(mode="after")
    def _something_to_learn(self) -> Data:
        if self.captions is None and (self.instructions is None or self.alignment is None):
            raise ValueError("needs captions, unless both instructions and alignment are given")
        if self.instructions is None and self.instances is None:
            raise ValueError("needs instances to make instructions, or instructions")
        return self


class Tower(WithPreset):
    """The frozen vision tower."""

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, values: Any) -> Any:
        return presets.filled(values, presets.TOWER)

    model: str = Field(description="Hub id or folder of a CLIP or SigLIP model.")
    revision: str | None = Field(None, description="Hub revision to pin.")
    layer: int = Field(-2, description="Hidden state that the projector reads.")
    projector: Literal["linear", "mlp2x_gelu"] = Field("linear", description="Projector's form.")
    preparation: Literal["crop", "pad", "stretch"] = Field(
        "crop",
        description="How images get square: the middle is kept, they are padded with the mean color"
        " (as in LLaVA-1.5), or stretched.",
    )


class Base(Model):
    """A base language model."""

    model: str = Field(description="Hub id or folder of a causal language model.")
    revision: str | None = Field(None, description="Hub revision to pin.")
    template: Literal["v0", "v1", "llava_llama_2", "chat"] = Field(
        "v1", description="Prompt template for instruction tuning."
    )
    label: str | None = Field(None, description="Name in figures.")
    remote_code: bool = Field(
        False, description="Run the repository's own code, if it needs any; read it first."
    )


class Released(Model):
    """LLaVA-style weights that others published: fetched and imported by the workflow."""

    repo: str | None = Field(
        None, pattern=r"^[\w.-]+/[\w.-]+$", description="Repository on the hub (owner/name)."
    )
    revision: str | None = Field(
        None, description="Its commit or tag; without one, the first commit that came is kept to."
    )
    local: str | None = Field(None, description="A folder of one's own in its place.")
    gib: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Room that it takes, about, for `sight plan`."
    )

    @model_validator(mode="after")
    def _one_place(self) -> Released:
        if self.repo is None and self.local is None:
            raise ValueError("needs repo, or local")
        return self


class Reference(Base):
    """What is only evaluated: a language model, or a checkpoint that was trained elsewhere."""

    checkpoint: str | None = Field(
        None, description="Folder of an imported checkpoint (`sight import`) of that model."
    )
    released: Released | None = Field(
        None, description="Where others published weights that were trained from that model."
    )

    @model_validator(mode="after")
    def _one_checkpoint(self) -> Reference:
        if self.checkpoint is not None and self.released is not None:
            raise ValueError("checkpoint and released: give one of them; released is imported")
        return self


class Source(Model):
    """What stands where the image stood, and which instructions are kept."""

    form: Literal["visual", "caption", "text"] = Field(
        description="The image, its captions as text, or nothing."
    )
    kinds: list[Literal["conversation", "detail", "reasoning"]] | Literal["all"] = Field(
        "all", description="Kinds of instruction to learn from."
    )
    instructions: str | None = Field(
        None, description="A file of its own, instead of data.instructions: JSON or JSON lines."
    )
    layout: Literal["llava", "alpaca", "sharegpt"] | None = Field(
        None,
        description="Layout of that file. Alpaca's is told by its keys; ShareGPT's must be named.",
    )
    boxes: bool = Field(
        False, description="Put the boxes of data.instances after the captions (form caption)."
    )

    @model_validator(mode="after")
    def _keys_where_used(self) -> Source:
        if self.boxes and self.form != "caption":
            raise ValueError(f"boxes are for form 'caption', found {self.form!r}; remove boxes")
        if self.layout is not None and self.instructions is None:
            raise ValueError("layout is of a source's own instructions; give them, or remove it")
        return self


class Training(WithPreset):
    """How one stage is trained."""

    learning_rate: Annotated[float, Field(gt=0)] = Field(description="Peak learning rate.")
    epochs: Annotated[float, Field(gt=0)] = Field(1, description="Passes over the data.")
    batch_size: Positive = Field(
        description="Samples an optimizer step, over all passes and processes."
    )
    warmup: Annotated[float, Field(ge=0, le=1)] = Field(0.03, description="Share of warm-up steps.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="AdamW's weight decay.")
    max_length: Positive = Field(2048, description="Limit in positions, the image's included.")
    max_samples: Positive | None = Field(None, description="Use a seeded subset of this size.")
    max_learned_tokens: Positive | None = Field(
        None,
        description="Learn from exactly this many tokens an epoch, so that sources can be matched:"
        " samples are taken in the subset's order until they have them.",
    )
    max_lost: Annotated[float, Field(ge=0, le=1)] = Field(
        0.01, description="Fail where a larger share of samples would be cut or dropped."
    )
    precision: Literal["fp32", "bf16"] = Field("bf16", description="Computing precision.")
    optimizer: Literal["adamw", "paged_adamw_8bit"] = Field(
        "adamw", description="In 8 bits, paged: a quarter of the memory, for GPUs."
    )
    group_by_length: bool = Field(
        False, description="Gather samples of like length in a step; faster, and another order."
    )
    # What follows changes cost alone, never what is learned.
    token_budget: Positive | None = Field(
        16384, description="Positions a forward pass, padding included; null: the whole step."
    )
    gradient_checkpointing: bool | Literal["auto"] = Field(
        "auto", description="Trade time for memory; auto: only where the longest pass needs it."
    )
    save_steps: Positive = Field(500, description="Steps from one resume point to the next.")
    processes: Positive = Field(1, description="Processes that share a run, one a GPU (torchrun).")
    fsdp: bool = Field(False, description="Spread weights over the processes' GPUs (FSDP 2).")

    @model_validator(mode="after")
    def _several_to_spread_over(self) -> Training:
        if self.fsdp and self.processes == 1:
            raise ValueError(
                "fsdp spreads weights over several processes, found processes: 1; raise processes"
                " or remove fsdp"
            )
        return self


class Alignment(Training):
    """Stage 1: the projector learns."""

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, values: Any) -> Any:
        return presets.filled(values, presets.ALIGNMENT)


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

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        modes = {name: by_mode.get(values.get("mode")) for name, by_mode in presets.TUNING.items()}
        return presets.filled(values, {name: known for name, known in modes.items() if known})

    @model_validator(mode="after")
    def _adapters_where_used(self) -> Tuning:
        if self.lora is not None and self.mode not in ("lora", "qlora"):
            raise ValueError(f"mode {self.mode!r} has no adapters; remove lora")
        return self


class TextBenchmark(Model):
    """One task of lm-eval, or a group of its tasks, read from local files or the hub."""

    task: str | None = Field(
        None, description="lm-eval's task name; the benchmark's own by default."
    )
    path: str | None = Field(
        None,
        description="Folder with the files in their authors' layout, or a copy of the hub's.",
    )
    fewshot: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Shots; the task's by default."
    )
    limit: Positive | None = Field(None, description="Only the first items.")


class Corruptions(Model):
    """Which corrupted twins of an image benchmark are scored beside it."""

    kinds: list[Corruption] | Literal["all"] = Field(
        "all", description="Kinds of ImageNet-C; all 19 of them by default."
    )
    severities: list[Annotated[int, Field(ge=1, le=5, strict=True)]] = Field(
        default_factory=lambda: [1, 3, 5], min_length=1, description="From 1 (mild) to 5."
    )
    cache: str | None = Field(
        None, description="Folder to keep corrupted images in; they are made on the fly without."
    )

    def pairs(self) -> list[tuple[str, int]]:
        """Each kind at each severity."""
        kinds = get_args(Corruption) if self.kinds == "all" else self.kinds
        return [(kind, severity) for kind in kinds for severity in self.severities]


class ImageBenchmark(Model):
    """One image benchmark, read from its official files."""

    type: Literal["vqa", "pope", "mme", "captions"] = Field(description="Which evaluator.")
    images: str = Field(description="Folder of the images.")
    questions: str | None = Field(
        None, description="Question file (vqa, pope), or the folder of MME's blank files."
    )
    annotations: str | None = Field(None, description="Answers (vqa), references (captions).")
    split: str | None = Field(
        None, description="Split of a Karpathy file (captions); test by default."
    )
    subset: Literal["published"] | None = Field(
        None, description="The published 5,000 of VQAv2's validation questions (vqa)."
    )
    without: list[Subtask] = Field(default_factory=list, description="Subtasks to leave out (mme).")
    shots: Annotated[int, Field(ge=0, le=32)] = Field(
        0,
        description="Answered questions in words before each (vqa); as published, 3 of those that"
        " `subset` sets aside.",
    )
    more_metrics: list[Literal["METEOR", "SPICE"]] = Field(
        default_factory=list,
        description="Metrics that need Java and pycocoevalcap (captions).",
        json_schema_extra={"uniqueItems": True},
    )
    corruptions: Corruptions | None = Field(
        None, description="Score corrupted images too, as <name>-<kind>-<severity>."
    )
    prompt: str | None = Field(None, description="Words put to the model, `{question}` filled in.")
    limit: Positive | None = Field(None, description="Only the first questions.")
    only_present: bool = Field(
        False, description="Score only questions whose image is in the folder (a sample)."
    )
    max_new_tokens: Positive = Field(10, description="Length limit of an answer.")

    @model_validator(mode="after")
    def _keys_of_their_type(self) -> ImageBenchmark:
        for key, kind in _OF_ONE_TYPE.items():
            if getattr(self, key) and self.type != kind:
                raise ValueError(f"{key} is for type {kind}, found {self.type}; remove it")
        return self


_OF_ONE_TYPE = {
    "split": "captions",
    "more_metrics": "captions",
    "subset": "vqa",
    "shots": "vqa",
    "without": "mme",
}


class Evaluation(Model):
    """What the runs are scored on."""

    protocol: Literal["current", "published"] = Field(
        "current",
        description="lm-eval's text tasks of today and greedy answers about images, or settings"
        " and sampling of Tu et al. (2023).",
    )
    chat_template: list[Name] = Field(
        default_factory=list,
        description="Bases and references whose text questions are put in their chat template.",
    )
    backend: Literal["sight", "vllm"] = Field(
        "sight", description="What computes the text suite; vllm must be installed."
    )
    batch_size: Positive = Field(32, description="Requests a batch.")
    token_budget: Positive | None = Field(
        None, description="Tokens a pass of the text suite; null: what suits the device."
    )
    feature_cache_gib: Annotated[float, Field(ge=0)] = Field(
        8.0,
        description="Room for the tower's features of the benchmarks' images, read by all that is"
        " evaluated; beyond it each evaluation computes them.",
    )
    text: dict[Name, TextBenchmark] = Field(default_factory=dict, description="Text suite.")
    image: dict[Name, ImageBenchmark] = Field(default_factory=dict, description="Image suite.")

    @model_validator(mode="after")
    def _names_stay_apart(self) -> Evaluation:
        for name, benchmark in self.image.items():
            for kind, severity in benchmark.corruptions.pairs() if benchmark.corruptions else []:
                if f"{name}-{kind}-{severity}" in self.image:
                    raise ValueError(
                        f"image.{name}-{kind}-{severity}: image.{name}.corruptions makes one of"
                        " that name; rename it"
                    )
        return self


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


class Explorer(Model):
    """What the explorer's page holds. Nothing here re-runs anything but drawing."""

    images: bool | None = Field(
        None,
        description="Keep small copies of the image benchmarks' images in figures/data/, for the"
        " page; null: those of the micro world alone. Photos need the right to be passed on.",
    )
    image_pixels: Annotated[int, Field(ge=16, le=1024)] = Field(
        224, description="Longest side of a copy."
    )
    image_mib: Annotated[float, Field(gt=0, le=1024)] = Field(
        4.0, description="Room for all copies; the first images of each benchmark come first."
    )


class Gpu(Model):
    """A GPU of the table that `hardware.gpu` names one of."""

    memory_gib: Annotated[float, Field(gt=0)] | None = Field(None, description="Its memory.")
    tflops: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Its peak in bfloat16, dense, in TFLOP/s."
    )
    price_per_hour: Annotated[float, Field(ge=0)] | None = Field(
        None, description="Of one, in any currency."
    )


class Hardware(Model):
    """The GPU that `sight plan` reckons with. Nothing here changes what is done."""

    gpu: str = Field(
        description="A known GPU (its memory and speed needn't be given), or a name of your own."
    )
    memory_gib: Annotated[float, Field(gt=0)] | None = Field(None, description="Its memory.")
    tflops: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Its peak in bfloat16, dense, in TFLOP/s."
    )
    utilization: Annotated[float, Field(gt=0, le=1)] = Field(
        0.4, description="Share of the peak that trainings reach (model FLOP utilization)."
    )
    price_per_hour: Annotated[float, Field(ge=0)] | None = Field(
        None, description="Of one GPU, in any currency."
    )
    gpus: dict[str, Gpu] = Field(
        default_factory=dict,
        description="GPUs by name, beside those that are known or with other values than these.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_table(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        name, own = values.get("gpu"), values.get("gpus")
        known: dict[str, Any] = {}
        if isinstance(name, str) and name in GPUS:
            known = dict(zip(("memory_gib", "tflops"), GPUS[name], strict=True))
        entry = own.get(name) if isinstance(own, Mapping) else None
        if isinstance(entry, Mapping):
            given = {key: value for key, value in entry.items() if value is not None}
            # What isn't of such an entry is told where it stands.
            known |= {key: given[key] for key in given if key in Gpu.model_fields}
        return {**known, **values}

    @model_validator(mode="after")
    def _known_or_given(self) -> Hardware:
        if self.memory_gib is None or self.tflops is None:
            names = ", ".join(dict.fromkeys([*GPUS, *self.gpus]))
            raise ValueError(f"gpu {self.gpu!r} needs memory_gib and tflops; known: {names}")
        return self

    def on(self, gpu: str) -> Hardware:
        """The same with another GPU of the table.

        Raises:
            UserError: none of that name is known.
        """
        kept = {"gpu": gpu, "utilization": self.utilization, "gpus": self.model_dump()["gpus"]}
        try:
            return Hardware.model_validate(kept)
        except ValidationError:
            names = ", ".join(dict.fromkeys([*GPUS, *self.gpus]))
            raise UserError(
                f"--gpu: {gpu!r} isn't known; there are: {names}; hardware.gpus adds one's own"
            ) from None


class Job(Model):
    """What a kind of job asks for, in place of the defaults."""

    threads: Positive | None = Field(
        None, description="Of each process; 4 with a GPU, 1 without, by default."
    )
    mem_mb: Positive | None = Field(
        None, description="Main memory of each process; 32000 with a GPU, 4000 without."
    )
    runtime: Positive | None = Field(
        None, description="Minutes, at most; 480 with a GPU, 120 without, by default."
    )


class Jobs(Model):
    """What jobs ask of Snakemake and SLURM. Nothing here changes what is learned or scored."""

    gpu: bool = Field(
        True,
        description="A GPU for each process of a training, each evaluation and each cache of"
        " features; false for a study that runs on CPUs.",
    )
    align: Job = Field(default_factory=Job, description="Stage 1.")
    tune: Job = Field(default_factory=Job, description="Stage 2.")
    evaluate: Job = Field(default_factory=Job, description="Subjects on suites.")
    evaluations_per_job: Positive = Field(
        1,
        description="Evaluations of one base that share a job, its start, and on text the load of"
        " the base. For short ones: they wait until the last of their runs is trained.",
    )
    trainings_per_job: Positive = Field(
        1,
        description="Runs of one base that share a job and its start, one trained after the other."
        " For short ones; those of several processes have a job each.",
    )
    cache_features: Job = Field(default_factory=Job, description="The tower's features.")


class Study(Model):
    """One study: axes, recipes, benchmarks, claims, figures."""

    name: Name = Field(description="Names the folders of its tables and figures.")
    micro: Micro | None = Field(None, description="Makes a micro world, for paths `micro:...`.")
    resources: dict[Name, Resource] = Field(
        default_factory=dict, description="What is fetched, for paths `resource:<name>/...`."
    )
    data: Data = Field(description="What is learned from.")
    tower: Tower = Field(description="The vision tower.")
    bases: dict[Name, Base] = Field(min_length=1, description="Base language models.")
    sources: dict[Name, Source] = Field(min_length=1, description="Data sources.")
    alignment: Alignment = Field(description="Stage 1: the projector learns.")
    tunings: dict[Name, Tuning] = Field(min_length=1, description="Stage 2: ways of tuning.")
    seeds: list[int] = Field(
        default_factory=lambda: [0],
        min_length=1,
        description="Seeds.",
        json_schema_extra={"uniqueItems": True},
    )
    references: dict[Name, Reference] = Field(
        default_factory=dict,
        description="Language models that are only evaluated, on text; with images too where an"
        " imported checkpoint has a projector.",
    )
    evaluation: Evaluation = Field(default_factory=Evaluation, description="Benchmarks.")
    claims: dict[Name, Claim] = Field(
        default_factory=dict,
        description="What the study claims; judged from the items, and no run hangs on it.",
    )
    published: list[Published] = Field(
        default_factory=list, description="Values that others reported, to stand beside ours."
    )
    figures: Figures = Field(default_factory=Figures, description="How figures look.")
    explorer: Explorer = Field(default_factory=Explorer, description="The page of runs and items.")
    hardware: Hardware | None = Field(
        None, description="The GPU to foretell times and prices for; nothing hangs on it."
    )
    jobs: Jobs = Field(
        default_factory=Jobs, description="What jobs ask of Snakemake and SLURM; see docs."
    )

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
    def _resources_are_there(self) -> Study:
        for path in _strings(self.model_dump(exclude={"resources"})):
            if path.startswith(RESOURCE):
                name = path.removeprefix(RESOURCE).split("/")[0]
                if name not in self.resources:
                    known = ", ".join(self.resources) or "none"
                    raise ValueError(f"{path!r}: no such resource; there are: {known}")
        return self

    @model_validator(mode="after")
    def _chat_templates_of_known_models(self) -> Study:
        for name in self.evaluation.chat_template:
            if name not in self.bases and name not in self.references:
                raise ValueError(f"evaluation.chat_template: {name!r} is no base or reference")
        return self

    @model_validator(mode="after")
    def _captions_where_used(self) -> Study:
        if self.data.captions is None:
            for name, source in self.sources.items():
                if source.form == "caption":
                    raise ValueError(f"sources.{name} needs data.captions (COCO captions)")
        return self

    @model_validator(mode="after")
    def _boxes_where_used(self) -> Study:
        for name, source in self.sources.items():
            known = self.data.instances or str(self.data.captions).endswith(".jsonl")
            if source.boxes and not known:
                raise ValueError(f"sources.{name}.boxes needs data.instances (COCO instances)")
        return self

    @cached_property
    def world(self) -> str | None:
        """The micro world's folder, named after what it is made from."""
        if self.micro is None:
            return None
        return f"resources/micro/{digest({'version': WORLD_VERSION, **self.micro.model_dump()})}"

    @cached_property
    def remembered(self) -> dict[str, Any]:
        """What others worked out of the study, and of the files that it names, once."""
        return {}

    def __copy__(self) -> Study:
        # model_copy changes the copy: what was worked out isn't its own.
        copied = super().__copy__()
        for name in ("world", "remembered"):
            copied.__dict__.pop(name, None)
        return copied

    def path(self, given: str) -> str:
        """Where a path lies: `micro:...` in the world, `resource:...` in one, else as it is."""
        if given.startswith(RESOURCE):
            name, slash, rest = given.removeprefix(RESOURCE).partition("/")
            return f"{self.resource_folder(name)}{slash}{rest}"
        return f"{self.world}/{given.removeprefix(MICRO)}" if given.startswith(MICRO) else given

    def resource_folder(self, name: str) -> str:
        """A resource's folder: its local one, or one named after what it is made of."""
        resource = self.resources[name]
        if resource.local is not None:
            return resource.local
        return f"{FETCHED}/{name}-{digest([item.model_dump() for item in resource.items])}"

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


def load(values: Mapping[str, Any], files: list[str | Path] | None = None) -> Study:
    """Validates a study.

    Args:
        values: the study as read from YAML.
        files: the files that it was read from, so that errors can say where.

    Raises:
        UserError: all mistakes, a line each: file and line, key, what was found, what is allowed.
    """
    try:
        study = Study.model_validate(values)
    except ValidationError as error:
        raise UserError(describe(error, Study, files or [])) from None
    wrong = [
        f"{where(place, files or [])}{'.'.join(map(str, place))}: {why}"
        for place, why in misfits(study)
    ]
    if wrong:
        raise UserError("\n".join(wrong))
    return study


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
