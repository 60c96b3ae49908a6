"""The model card of an exported run: what it is, how to open it, and what it comes from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import yaml

from sight_beyond_text.analysis import tidy
from sight_beyond_text.data.samples import encode
from sight_beyond_text.data.templates import IMAGE, segments

_QUESTION = "What is in the picture?"
_TEXT_QUESTION = "Is the earth flat?"
_HUB_ID = r"[\w.-]+/[\w.-]+"
_TUNINGS = {
    "align": "the projector alone (alignment)",
    "frozen": "the projector alone",
    "lora": "LoRA adapters of the language model, and the projector",
    "qlora": "LoRA adapters of the language model in 4 bits (QLoRA), and the projector",
    "full": "the whole language model, and the projector",
}


def model_card(subject: dict, record: dict, told: dict, tokenizer) -> str:
    """The text of an export's README.md, with the hub's metadata in front.

    Args:
        subject: what was exported (`runs.find`).
        record: its completion record.
        told: `part`, `adapter`, `precision`, `difference`, `image_marks` of the export.
        tokenizer: the one that the run was trained with.

    Texts that come from data stand in code spans, where Markdown and HTML mean nothing.
    """
    recipe = record["recipe"]
    whole = told["part"] == "whole"
    kept = told["adapter"] == "kept"
    what = "A vision and language model" if whole else "A language model"
    if kept and not whole:
        what = "An adapter for a language model"
    parts = [
        _front(subject, whole, kept),
        f"# {_plain(subject['id'])}\n\n{what}, trained with Sight Beyond Text: images teach a"
        " language model, and its text is scored.",
        "## Open it\n\n" + _usage(subject, told, tokenizer),
        "## Training\n\n" + _training(subject, record),
    ]
    merged = _merge(subject, told)
    if merged:
        parts.append("## Merge\n\n" + merged)
    parts += ["## Losses\n\n" + _losses(record), "## Scores\n\n" + _scores(subject, record)]
    lineage = {
        "base": _origin(subject["base"], recipe.get("base")),
        "vision tower": _origin(subject["tower"], (recipe.get("tower") or {}).get("model")),
        "alignment that the projector started from": recipe.get("projector"),
        **{key: record.get("imported", {}).get(key) for key in ("source", "revision", "layout")},
        "recipe version": recipe.get("version"),
    }
    parts.append("## Lineage\n\n" + _table(("", ""), lineage.items()))
    made = {**record.get("versions", {}), "transformers (export)": version("transformers")}
    parts.append("## Versions\n\n" + _table(("package", "version"), made.items()))
    parts.append(
        "## Licence\n\nThese weights derive from those named under Lineage; their licences, and"
        " those of the training data, hold for them too. Read these before you share the weights."
    )
    return "\n\n".join(parts) + "\n"


def public_name(model: str) -> str:
    """A hub id as it is; of a local folder its name alone, which says nothing of the machine."""
    return Path(model).name if Path(model).exists() else model


def _front(subject: dict, whole: bool, kept: bool) -> str:
    adapter_alone = kept and not whole
    values: dict = {
        "library_name": "peft" if adapter_alone else "transformers",
        "pipeline_tag": "image-text-to-text" if whole else "text-generation",
        "tags": ["sight-beyond-text", *(["llava"] if whole else [])],
        "license": "other",
        "license_name": "as-the-base-model",
    }
    hub = [
        model["model"]
        for model in (subject["base"], subject["tower"] if whole else None)
        if model is not None and re.fullmatch(_HUB_ID, model["model"])
        if not Path(model["model"]).exists()
    ]
    if hub:
        values["base_model"] = hub
        values["base_model_relation"] = "adapter" if adapter_alone else "finetune"
    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}---"


def _usage(subject: dict, told: dict, tokenizer) -> str:
    template = subject["template"] or "v1"
    whole, kept = told["part"] == "whole", told["adapter"] == "kept"
    asked = f"{IMAGE}\n{_QUESTION}" if whole else _TEXT_QUESTION
    laid = segments([(asked, "")], template, tokenizer, answer_last=True)
    prompt = "".join(part.text for part in laid)
    if told["image_marks"]:
        prompt = prompt.replace(IMAGE, IMAGE.join(told["image_marks"]))
    if whole:
        lines = [
            "from PIL import Image",
            "from transformers import AutoProcessor, LlavaForConditionalGeneration",
            "",
            'folder = "."  # this folder, or the name of its repository',
            "model = LlavaForConditionalGeneration.from_pretrained(folder)",
            "processor = AutoProcessor.from_pretrained(folder)",
            *(_adapter("model", 'f"{folder}/adapter"') if kept else ()),
            f"prompt = {prompt!r}",
            'image = Image.open("picture.png")',
            'inputs = processor(images=image, text=prompt, return_tensors="pt")',
            "inputs = inputs.to(model.device, model.dtype)",
            "made = model.generate(**inputs, max_new_tokens=64)",
            'answer = made[0, inputs["input_ids"].shape[1] :]',
            "print(processor.decode(answer, skip_special_tokens=True))",
        ]
    else:
        lines = [
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            'folder = "."  # this folder, or the name of its repository',
            *(_base_lines(subject) if kept else ()),
            *(() if kept else ("model = AutoModelForCausalLM.from_pretrained(folder)",)),
            "tokenizer = AutoTokenizer.from_pretrained(folder)",
            f"prompt = {prompt!r}",
            _input_line(laid, prompt, tokenizer),
            "made = model.generate(**inputs.to(model.device), max_new_tokens=64)",
            'answer = made[0, inputs["input_ids"].shape[1] :]',
            "print(tokenizer.decode(answer, skip_special_tokens=True))",
        ]
    code = "\n".join(lines)
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", code))])
    text = f"{fence}python\n{code}\n{fence}"
    if whole:
        text += (
            f"\n\nThe text `{IMAGE}` stands for the image; no token was added for it. The prompt is"
            f" laid out in the template {_code(template)}, as in training"
        )
        text += "; `processor.apply_chat_template` writes the same." if template != "plain" else "."
    if told["cap"]:
        text += (
            f"\n\nThe base caps its logits smoothly, at {told['cap']} after its head; transformers'"
            " LLaVA doesn't. The order of tokens is the same, their probabilities aren't:"
            f" take `{told['cap']} * tanh(logits / {told['cap']})` to have them."
        )
    return text


def _adapter(model: str, folder: str) -> list[str]:
    return [
        "from peft import PeftModel",
        f"model = PeftModel.from_pretrained({model}, {folder})",
    ]


def _base_lines(subject: dict) -> list[str]:
    base = subject["base"]
    name = public_name(base["model"])
    dtype = {"fp32": "float32", "bf16": "bfloat16"}[subject["precision"]]
    given = [repr(name), f"dtype={dtype!r}"]
    if base["revision"]:
        given.insert(1, f"revision={base['revision']!r}")
    lines = []
    if subject["mode"] == "qlora":
        lines = [
            "from transformers import BitsAndBytesConfig",
            "",
            "# The adapter was trained on the base in 4 bits.",
            "four_bits = BitsAndBytesConfig(",
            '    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,',
            f'    bnb_4bit_compute_dtype="{dtype}", llm_int8_skip_modules=["lm_head"],',
            ")",
        ]
        given.append("quantization_config=four_bits")
    lines.append(f"base = AutoModelForCausalLM.from_pretrained({', '.join(given)})")
    return [*lines, *_adapter("base", "folder")]


def _input_line(laid, prompt: str, tokenizer) -> str:
    """Tokenizes a prompt as training did; not every tokenizer puts its BOS first by itself."""
    if tokenizer(prompt)["input_ids"] == encode(laid, tokenizer, -1, 0)[0]:
        return 'inputs = tokenizer(prompt, return_tensors="pt")'
    return (
        "inputs = tokenizer(tokenizer.bos_token + prompt, add_special_tokens=False,"
        ' return_tensors="pt")'
    )


def _training(subject: dict, record: dict) -> str:
    recipe = record["recipe"]
    source = recipe.get("source")
    source = source if isinstance(source, Mapping) else {}
    kinds = source.get("kinds")
    learned: dict[str, object] = {
        "what learned": _TUNINGS[recipe["mode"]],
        "tensors that learned": len(record["learned_tensors"])
        if "learned_tensors" in record
        else None,
        "trainable parameters": _of(record.get("trainable_parameters"), record.get("parameters")),
        "in the image's place": source.get("form"),
        "kinds of instruction": kinds if isinstance(kinds, str) or not kinds else "+".join(kinds),
        "prompt template": subject["template"],
        "instructions": recipe.get("instructions"),
        "samples": record.get("samples"),
        "samples cut": _count(record.get("samples_cut")),
        "samples dropped": _count(record.get("samples_dropped")),
        "tokens": record.get("tokens"),
        "learned tokens": record.get("learned_tokens"),
        "seed": recipe.get("seed"),
        **(recipe.get("training") or {}),
        "projector_learning_rate": recipe.get("projector_learning_rate"),
        **{f"lora {key}": value for key, value in (recipe.get("lora") or {}).items()},
        "seconds": record.get("seconds"),
        "peak memory (MiB)": record.get("peak_memory_mib"),
    }
    text = _table(("", ""), learned.items())
    notes = record.get("imported", {}).get("notes", [])
    return text + "".join(f"\n\n- {_code(note)}" for note in notes)


def _of(part: int | None, whole: int | None) -> str | None:
    return None if part is None or not whole else f"{part} of {whole} ({part / whole:.2%})"


def _count(names: list | None) -> int | None:
    return None if names is None else len(names)


def _merge(subject: dict, told: dict) -> str:
    if told["adapter"] == "kept" and told["part"] == "whole":
        four = " in 4 bits, dequantized" if subject["mode"] == "qlora" else ""
        return f"The adapter is kept in `adapter/`; the language model here is the base{four}."
    if told["difference"] is None:
        return ""
    base = "the base in 4 bits" if subject["mode"] == "qlora" else "the base"
    into = "its dequantized weights" if subject["mode"] == "qlora" else "its weights"
    return (
        f"The adapter was merged into {into}, in float32, and rounded once to"
        f" {told['precision']}. Against the adapter on {base}, as it was trained and scored, the"
        f" {told['difference']}."
    )


def _losses(record: dict) -> str:
    curve = record.get("curve") or []
    if not curve:
        return "None are recorded."
    chosen = sorted({0, len(curve) // 4, len(curve) // 2, 3 * len(curve) // 4, len(curve) - 1})
    rows = [(curve[at].get("step"), f"{curve[at]['loss']:.4g}") for at in chosen]
    return _table(("step", "loss"), rows)


def _scores(subject: dict, record: dict) -> str:
    folder = Path(subject["checkpoint"]).parent
    found = [
        tidy.read_table(path.parent, "scores", path.name)
        for path in sorted(folder.glob("*/scores.parquet"))
    ]
    frame = pd.concat(found) if found else tidy.empty("scores")
    frame = frame[(frame["run"] == record["id"]) & (frame["suite"] != "corrupted")]
    if frame.empty:
        return "None were at hand when this was exported."
    frame = frame.drop_duplicates(["suite", "benchmark", "metric", "protocol"], keep="last")
    rows = []
    for row in frame.sort_values(["suite", "benchmark", "metric"]).to_dict("records"):
        error = "" if pd.isna(row["stderr"]) else f" ± {row['stderr']:.3f}"
        value = f"{row['value']:.3f}{error}"
        rows.append((row["benchmark"], row["metric"], value, row["n"], row["protocol"]))
    heads = ("benchmark", "metric", "value ± standard error", "questions", "protocol")
    return _table(heads, rows)


def _origin(model: dict | None, identity: str | None) -> str | None:
    if model is None:
        return identity
    if Path(model["model"]).exists():
        return (
            f"{Path(model['model']).name} ({identity})" if identity else Path(model["model"]).name
        )
    return f"{model['model']}@{model['revision'] or 'main'}"


def _table(heads: tuple[str, ...], rows: Iterable[tuple]) -> str:
    """A Markdown table; rows whose last cell is None are left out."""
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for first, *rest in rows:
        if rest[-1] is not None:
            lines.append("| " + " | ".join((_code(first), *map(_code, rest))) + " |")
    return "\n".join(lines)


def _code(value: object) -> str:
    """A value as a code span, in which Markdown and HTML mean nothing."""
    text = " ".join(str(value).split()).replace("`", "'").replace("|", "\\|")
    return f"`{text}`" if text else ""


def _plain(text: str) -> str:
    """A name for a heading: other characters than those of names are left out."""
    return re.sub(r"[^\w .+-]", "", text)
