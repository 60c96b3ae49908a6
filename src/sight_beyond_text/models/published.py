"""Importing published LLaVA-style checkpoints: weights alone, in this project's form.

Three layouts are known, those that LLaVA 1.0 and 1.5 write and the MM-* models of Tu et al. (2023)
come in: `mm_projector.bin` alone; a LoRA folder with `non_lora_trainables.bin`; a whole folder of
class LlavaLlamaForCausalLM. Pickled files are read as tensors and nothing else.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from sight_beyond_text.errors import UserError
from sight_beyond_text.files import COMPLETE, read_json, sha256, staged_folder, write_json
from sight_beyond_text.grid import identity
from sight_beyond_text.models.building import load_tokenizer, load_tower
from sight_beyond_text.models.checkpoints import EMBEDDINGS, hashes
from sight_beyond_text.study import RELEASED_FILES, Tower

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
_TRAINABLES = ("non_lora_trainables.safetensors", "non_lora_trainables.bin")
_PROJECTORS = ("mm_projector.safetensors", "mm_projector.bin")
_PREFIX = "base_model.model."
_TYPES = ("llava", "llava_llama", "llama")
_MARKS = ["<im_start>", "<im_end>"]
_PATCH = "<im_patch>"
_PAD = "[PAD]"
"""Added first where the template is v0 and the base has no such token."""
_LINEAR = {"weight": "linear.weight", "bias": "linear.bias"}
_TWO_LAYERS = {
    "0.weight": "linear_1.weight",
    "0.bias": "linear_1.bias",
    "2.weight": "linear_2.weight",
    "2.bias": "linear_2.bias",
}
_LORA_KEYS = ("r", "lora_alpha", "lora_dropout", "target_modules", "fan_in_fan_out", "task_type")
_OLD_ROPE = ("rope_theta", "rope_scaling")


@dataclass
class Found:
    """What a folder held.

    Attributes:
        layout: "projector", "lora" or "full".
        config: its config.json; empty where there is none.
        files: the files of weights that were read.
        projector: tensors of the projector, by this project's names.
        embeddings: "input" and "output" embeddings that were trained beside the rest.
        tower: tensors of the vision tower, by CLIP's names.
        notes: what a reader of scores has to know.
    """

    layout: str
    config: dict
    files: list[Path] = field(default_factory=list)
    projector: dict[str, torch.Tensor] = field(default_factory=dict)
    embeddings: dict[str, torch.Tensor] = field(default_factory=dict)
    tower: dict[str, torch.Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def import_checkpoint(
    source: str,
    out: str | Path,
    base: dict,
    tower: str | None = None,
    revision: str | None = None,
    template: str | None = None,
) -> dict:
    """Writes a published checkpoint as one of this project's.

    Args:
        source: a folder, a `mm_projector.bin`, or a hub id.
        out: the folder to make; it is whole or it isn't there.
        base: `{model, revision}` that it was trained from.
        tower: hub id or folder of its vision tower; what its config.json names by default.
        revision: of the hub id.
        template: the prompt template that it was trained with, where known.

    Returns:
        The record that is written as `complete.json`.

    Raises:
        UserError: a layout that isn't known, files that aren't plain tensors, tensors that don't
            fit the base, or something trained that this form has no place for.
    """
    path, named = _fetched(source, revision)
    folder = path if path.is_dir() else path.parent
    config = _read_config(folder)
    shapes = _base_shapes(base)
    with staged_folder(out) as made:
        if path.is_file():
            found = Found("projector", config)
            _sort_out(_flat(path, found), found)
            mode = "frozen"
        else:
            mode, found = _read_folder(folder, config, made, shapes)
        form = _save_projector(found, made, shapes)
        marks = _image_marks(config)
        _save_tokenizer(folder, made, base, found, marks, shapes)
        settings = _tower(config, tower, form)
        _compare_tower(found, settings)
        if found.embeddings:
            tensors = {name: tensor.contiguous() for name, tensor in found.embeddings.items()}
            save_file(tensors, made / EMBEDDINGS)
        record = {
            "id": Path(out).name,
            "stage": "import",
            "recipe": {
                "stage": "import",
                "mode": mode,
                "template": template,
                "base": identity(base["model"], base["revision"]),
                "tower": {
                    **settings,
                    "model": settings["model"]
                    and identity(settings["model"], settings["revision"]),
                },
            },
            "base": base,
            "tower": settings if settings["model"] else None,
            "image_marks": marks,
            "imported": {
                "source": named,
                "revision": revision,
                "layout": found.layout,
                "files": {file.name: sha256(file) for file in found.files},
                "notes": found.notes,
            },
            "files": hashes(made),
        }
        write_json(made / COMPLETE, record)
    return record


# Where from


def _fetched(source: str, revision: str | None) -> tuple[Path, str]:
    """The local file or folder of a source, and how to name it."""
    path = Path(source)
    if path.exists():
        return path, path.name
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source) or source.startswith((".", "~")):
        raise UserError(f"{source}: no such file or folder, and no hub id (owner/name) either")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx

    try:
        folder = snapshot_download(source, revision=revision, allow_patterns=RELEASED_FILES)
    except (HfHubHTTPError, httpx.HTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{source}: not fetched from the hub: {reason}") from None
    return Path(folder), f"{source}@{Path(folder).name}"


def _read_config(folder: Path) -> dict:
    path = folder / "config.json"
    if not path.is_file():
        return {}
    config = read_json(path, "model configuration")
    if not isinstance(config, dict):
        raise UserError(f"{path}: not a model configuration")
    return config


# Reading


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors or pickled file, by name; nothing else is ever loaded.

    Raises:
        UserError: the file is broken, or a pickle that holds more than tensors.
    """
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path}: not a safetensors file: {error}") from None
    try:
        # Only the form of torch 1.6 and later can be mapped instead of read.
        mapped = zipfile.is_zipfile(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        asks = f" (it asks for {named[1]})" if named else ""
        raise UserError(
            f"{path}: holds more than tensors{asks}, so that reading it would run its code;"
            " refused: don't trust this file"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: not a whole file of tensors: {reason}") from None
    flat = isinstance(state, dict) and all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    )
    if not flat:
        raise UserError(f"{path}: not a dict of tensors")
    return state


def _flat(path: Path, found: Found) -> dict[str, torch.Tensor]:
    """A file's tensors, named as in the bare model."""
    found.files.append(path)
    return {_bare(name): tensor for name, tensor in tensors_of(path).items()}


def _bare(name: str) -> str:
    while name.startswith(_PREFIX):
        name = name.removeprefix(_PREFIX)
    return name


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _read_folder(
    folder: Path, config: dict, made: Path, shapes: dict[str, torch.Size]
) -> tuple[str, Found]:
    """Mode, and what a folder held; an adapter or an LLM is written on the way."""
    if (folder / "adapter_config.json").is_file():
        found = Found("lora", config)
        _convert_adapter(folder, made, found, shapes)
        trained = _first(folder, _TRAINABLES)
        if trained is None:
            raise UserError(
                f"{folder}: an adapter without non_lora_trainables.bin, so its projector is missing"
            )
        _sort_out(_flat(trained, found), found)
        if found.embeddings:
            found.notes.append(
                "The embeddings and the head were trained beside the adapter; evaluations that load"
                " the adapter alone score another model. They are kept here and used."
            )
        return "lora", found
    if any((folder / name).is_file() for name in (*_INDEXES, *_WEIGHTS)):
        kind = config.get("model_type")
        if kind not in _TYPES or "text_config" in config:
            raise UserError(
                f"{folder}/config.json: type {kind!r}, not a LLaVA model of class"
                f" LlavaLlamaForCausalLM (types {', '.join(_TYPES)})"
            )
        found = Found("full", config)
        _convert_language_model(folder, made, found, shapes)
        return "full", found
    projector = _first(folder, _PROJECTORS)
    if projector is None:
        raise UserError(
            f"{folder}: no layout that is known: no mm_projector.bin, no adapter_config.json with"
            " non_lora_trainables.bin, no model weights"
        )
    found = Found("projector", config)
    _sort_out(_flat(projector, found), found)
    return "frozen", found


def _sort_out(tensors: dict[str, torch.Tensor], found: Found) -> None:
    """Puts the tensors beside an adapter or an LLM where they belong.

    Raises:
        UserError: something else was trained.
    """
    others = []
    for name, tensor in tensors.items():
        _, is_projector, rest = name.rpartition("mm_projector.")
        if is_projector:
            found.projector[rest] = tensor
        elif "vision_tower." in name:
            found.tower[name.rpartition("vision_model.")[2]] = tensor
        elif name == "model.embed_tokens.weight":
            found.embeddings["input"] = tensor
        elif name == "lm_head.weight":
            found.embeddings["output"] = tensor
        else:
            others.append(name)
    if others:
        raise UserError(
            f"{found.files[-1]}: {len(others)} tensors were trained that there is no place for,"
            f" the first is {others[0]}"
        )


# Writing


def _save_projector(found: Found, made: Path, shapes: dict[str, torch.Size]) -> str:
    """Writes the projector; which form it has."""
    if not found.projector:
        raise UserError(f"{found.files[0].parent}: no mm_projector in any file")
    forms = {"linear": _LINEAR, "mlp2x_gelu": _TWO_LAYERS}
    form = next((name for name, keys in forms.items() if keys.keys() == found.projector.keys()), "")
    if not form:
        raise UserError(
            f"{found.files[-1]}: a projector of tensors {', '.join(sorted(found.projector))};"
            " there are: one layer (weight, bias), or two with GELU (0.*, 2.*)"
        )
    renamed = {forms[form][name]: tensor for name, tensor in found.projector.items()}
    width = next(tensor for name, tensor in renamed.items() if name.endswith("weight")).shape[0]
    hidden = shapes["model.embed_tokens.weight"][1]
    if width != hidden:
        raise UserError(
            f"{found.files[-1]}: the projector leads to {width} features, the base has {hidden};"
            " is it this base (--base)?"
        )
    save_file({name: t.contiguous() for name, t in renamed.items()}, made / "projector.safetensors")
    return form


def _base_shapes(base: dict) -> dict[str, torch.Size]:
    """Names and shapes of a base's tensors, by its configuration alone."""
    try:
        config = AutoConfig.from_pretrained(base["model"], revision=base["revision"])
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{base['model']}: no base there (--base): {reason}") from None
    if config.model_type != "llama":
        raise UserError(
            f"{base['model']}: a base of type {config.model_type!r}; imports are for Llama's"
        )
    return _shapes(config)


def _shapes(config) -> dict[str, torch.Size]:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _convert_adapter(folder: Path, made: Path, found: Found, shapes: dict[str, torch.Size]) -> None:
    """Writes a LoRA adapter as peft does today."""
    path = folder / "adapter_config.json"
    config = read_json(path, "configuration of an adapter")
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise UserError(f"{path}: not the configuration of a LoRA adapter")
    if config.get("bias", "none") != "none" or config.get("modules_to_save"):
        raise UserError(f"{path}: biases or whole modules were trained too, which isn't supported")
    weights = _first(folder, _ADAPTERS)
    if weights is None:
        raise UserError(f"{folder}: an adapter_config.json without adapter_model.bin")
    tensors = _flat(weights, found)
    for name, tensor in tensors.items():
        where, _, which = name.rpartition(".lora_")
        expected = shapes.get(f"{where}.weight")
        side = {"A.weight": 1, "B.weight": 0}.get(which)
        if side is None or expected is None or tensor.shape[side] != expected[side]:
            raise UserError(
                f"{weights}: {name} fits no layer of the base; is it this one (--base)?"
            )
    (made / "adapter").mkdir()
    kept = {f"{_PREFIX}{name}": tensor.contiguous() for name, tensor in tensors.items()}
    save_file(kept, made / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"})
    kept_config = {key: config[key] for key in _LORA_KEYS if key in config}
    kept_config |= {"peft_type": "LORA", "bias": "none", "inference_mode": True}
    write_json(made / "adapter" / "adapter_config.json", kept_config)


def _convert_language_model(
    folder: Path, made: Path, found: Found, shapes: dict[str, torch.Size]
) -> None:
    """Writes the LLM of a whole folder, a file at a time, and finds the rest in it."""
    config = _llama_config(found.config, folder)
    expected, target = _shapes(config), made / "llm"
    target.mkdir()
    width, own = (s["model.embed_tokens.weight"][1] for s in (expected, shapes))
    if width != own or len(expected) != len(shapes):
        raise UserError(f"{folder}: not of the base's size; is it this one (--base)?")
    index: dict[str, str] = {}
    total = 0
    files = list(_shards(folder))
    for number, path in enumerate(files, 1):
        tensors = _flat(path, found)
        own = {name: tensors.pop(name) for name in list(tensors) if name in expected}
        for name, tensor in own.items():
            if tensor.shape != expected[name]:
                raise UserError(
                    f"{path}: {name} has shape {tuple(tensor.shape)}, config.json says"
                    f" {tuple(expected[name])}"
                )
        # Older versions saved buffers that are computed today.
        rest = {name: t for name, t in tensors.items() if not name.endswith("rotary_emb.inv_freq")}
        _sort_out(rest, found)
        if config.tie_word_embeddings:
            own.pop("lm_head.weight", None)
        file = f"model-{number:05}-of-{len(files):05}.safetensors"
        if own:
            kept = {name: tensor.contiguous() for name, tensor in own.items()}
            save_file(kept, target / file, metadata={"format": "pt"})
        index |= dict.fromkeys(own, file)
        total += sum(tensor.nbytes for tensor in own.values())
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    missing = sorted(expected.keys() - index.keys() - tied)
    if missing:
        raise UserError(f"{folder}: {len(missing)} tensors are missing, the first is {missing[0]}")
    written = {"metadata": {"total_size": total}, "weight_map": index}
    write_json(target / _INDEXES[0], written)
    config.save_pretrained(target)


def _llama_config(values: dict, folder: Path) -> LlamaConfig:
    """The LLM's part of a LLaVA configuration."""
    known = {*LlamaConfig().to_dict(), *_OLD_ROPE} - {"model_type", "architectures"}
    kept = {key: value for key, value in values.items() if key in known}
    if kept.get("pad_token_id") is not None and kept["pad_token_id"] < 0:
        kept["pad_token_id"] = None
    try:
        config = LlamaConfig(**kept)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{folder}/config.json: not a Llama's: {reason}") from None
    config.architectures = ["LlamaForCausalLM"]
    return config


def _shards(folder: Path) -> Iterator[Path]:
    """The files of weights that a folder's index names, or its one file."""
    index = _first(folder, _INDEXES)
    if index is None:
        yield _first(folder, _WEIGHTS)
        return
    named = read_json(index, "index of model weights")
    names = named.get("weight_map") if isinstance(named, dict) else None
    if not isinstance(names, dict) or not names:
        raise UserError(f"{index}: not an index of model weights")
    for name in sorted(set(names.values())):
        if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file():
            raise UserError(f"{index}: names {name!r}, which isn't in the folder; fetch it whole")
        yield folder / name


def _image_marks(config: dict) -> list[str] | None:
    """The tokens around the image, for models that were trained with them."""
    return list(_MARKS) if config.get("mm_use_im_start_end") else None


def _save_tokenizer(
    folder: Path,
    made: Path,
    base: dict,
    found: Found,
    marks: list[str] | None,
    shapes: dict[str, torch.Size],
) -> None:
    """Writes a tokenizer where tokens were added to the base's: the folder's, or one made alike.

    LLaVA saves none beside a projector or an adapter, but always adds the same tokens in the same
    order, so that the rows of the embeddings tell which.

    Raises:
        UserError: the image stood between tokens that the folder doesn't tell.
    """
    rows = {len(tensor) for tensor in found.embeddings.values()}
    if found.layout == "full":
        rows = {_llama_config(found.config, folder).vocab_size}
    vocabulary = shapes["model.embed_tokens.weight"][0]
    if min(rows, default=vocabulary) < vocabulary:
        raise UserError(
            f"{folder}: embeddings of {min(rows)} tokens, the base has {vocabulary};"
            " is it this base (--base)?"
        )
    added = bool(marks) or max(rows, default=vocabulary) > vocabulary
    has_own = (folder / "tokenizer_config.json").is_file()
    tokenizer = None
    if added:
        if has_own:
            tokenizer = load_tokenizer({"model": str(folder), "revision": None})
        elif marks:
            tokenizer = _with_added_tokens(base, found, marks, max(rows, default=vocabulary))
        if tokenizer is not None:
            tokenizer.save_pretrained(made / "tokenizer")
    if marks:
        if tokenizer is None or not set(marks) <= set(tokenizer.get_vocab()):
            raise UserError(
                f"{folder}: trained with the image between {' and '.join(marks)}, but without a"
                " tokenizer that has them; fetch its tokenizer files too"
            )
        found.notes.append(
            f"Trained with the image between {' and '.join(marks)}; prompts are made so here too."
        )
    if found.layout == "full":
        (tokenizer or load_tokenizer(base)).save_pretrained(made / "llm")


def _with_added_tokens(base: dict, found: Found, marks: list[str], rows: int):
    """The base's tokenizer with LLaVA's tokens; None where they don't fit the embeddings' rows."""
    tokenizer = load_tokenizer(base)
    patch = [_PATCH] if found.config.get("mm_use_im_patch_token", True) else []
    for names in ([*patch, *marks], [_PAD, *patch, *marks]):
        if len(tokenizer) + len(names) == rows:
            tokenizer.add_tokens(names, special_tokens=True)
            found.notes.append(
                f"Its tokenizer is the base's and the tokens that LLaVA adds: {', '.join(names)}."
            )
            return tokenizer
    return None


# The vision tower


def _tower(config: dict, named: str | None, form: str) -> dict:
    """The tower's settings, `model` None where nothing names one."""
    layer = config.get("mm_vision_select_layer", -2)
    fields: dict = {"model": named or config.get("mm_vision_tower"), "layer": layer}
    aspect = config.get("image_aspect_ratio")
    if "preparation" in Tower.model_fields and aspect == "pad":
        fields["preparation"] = "pad"
    settings = Tower(**{**fields, "model": fields["model"] or "none", "projector": form})
    return {**settings.model_dump(), "model": fields["model"]}


def _compare_tower(found: Found, settings: dict) -> None:
    """Sees that a vision tower inside a checkpoint is the one that will be used.

    Raises:
        UserError: it isn't; then it was trained, which this form has no place for.
    """
    if not found.tower:
        return
    if settings["model"] is None or not Path(settings["model"]).exists():
        found.notes.append(
            "A vision tower lies in the checkpoint; it was left out, and not compared"
            f" with {settings['model'] or 'another'}."
        )
        return
    known = {
        name.rpartition("vision_model.")[2]: tensor
        for name, tensor in load_tower(settings, torch.float32).state_dict().items()
    }
    common = found.tower.keys() & known.keys()
    if len(common) < len(known):
        raise UserError(
            f"{found.files[-1].parent}: its vision tower isn't of the kind of {settings['model']}"
        )
    for name in sorted(common):
        tensor = found.tower[name]
        if not torch.equal(known[name].to(tensor.dtype), tensor):
            raise UserError(
                f"{found.files[-1].parent}: its vision tower differs from {settings['model']}"
                f" at {name}, so it was trained too; there is no place for that"
            )
    found.notes.append(
        f"A vision tower lies in the checkpoint; it is that of {Path(settings['model']).name}."
    )
