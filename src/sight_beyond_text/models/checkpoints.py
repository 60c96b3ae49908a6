"""Checkpoints of runs: what lies where, and how to believe it.

A checkpoint holds only what its run changed: `projector.safetensors` always; `llm/` (full, a
Hugging Face folder) or `adapter/` (LoRA and QLoRA, a peft folder for the base). An import may
have `embeddings.safetensors` and `tokenizer/` besides, where its tokens were added to the base's.
`complete.json`, written last, records the run's recipe and the hash of each file.
"""

from __future__ import annotations

import gc
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sight_beyond_text.errors import UserError
from sight_beyond_text.files import COMPLETE, RESUME, read_json, sha256
from sight_beyond_text.models.building import DTYPES, build, load_language_model, load_tokenizer

if TYPE_CHECKING:
    from peft import PeftModel

EMBEDDINGS = "embeddings.safetensors"
_PROJECTOR = "model.multi_modal_projector."


def save_projector(state: dict[str, torch.Tensor], folder: str | Path) -> None:
    """Writes the projector's tensors, out of the whole model's by name."""
    own = {
        name.removeprefix(_PROJECTOR): tensor.cpu().contiguous()
        for name, tensor in state.items()
        if name.startswith(_PROJECTOR)
    }
    save_file(own, Path(folder) / "projector.safetensors")


def language_tensors(state: dict[str, torch.Tensor], llm) -> dict[str, torch.Tensor]:
    """A language model's tensors, out of the whole model's by name, as its own class names them.

    Args:
        state: the whole model's tensors (`model.language_model.*` and `lm_head.*` are the LLM's).
        llm: the language model that is a part of it; not all classes call their layers `model`.
    """
    head = llm.get_output_embeddings()
    own = next(name for name, module in llm.named_modules() if module is head)
    renamed = {"model.language_model.": f"{llm.base_model_prefix}.", "lm_head.": f"{own}."}
    if llm.config.tie_word_embeddings:
        # The embeddings once more; gathered from several processes, they'd be saved twice.
        state = {name: tensor for name, tensor in state.items() if name != "lm_head.weight"}
    return {
        prefix + name.removeprefix(whole): tensor
        for name, tensor in state.items()
        for whole, prefix in renamed.items()
        if name.startswith(whole)
    }


def load_projector(model, folder: str | Path) -> None:
    """Puts a saved projector into a model.

    Raises:
        UserError: it isn't there, or its shapes are another model's.
    """
    path = Path(folder) / "projector.safetensors"
    if not path.is_file():
        raise UserError(f"{path}: no such file; run the alignment first")
    try:
        model.model.multi_modal_projector.load_state_dict(load_file(path))
    except (RuntimeError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not this model's projector: {reason}") from None


def hashes(folder: str | Path) -> dict[str, str]:
    """SHA-256 of every file in a checkpoint but its record and resume points, by relative path."""
    folder = Path(folder)
    return {
        path.relative_to(folder).as_posix(): sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != COMPLETE and path.relative_to(folder).parts[0] != RESUME
    }


def completed(folder: str | Path, recipe: dict) -> dict | None:
    """The record of a finished run with this recipe, its files intact; else None."""
    path = Path(folder) / COMPLETE
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        return None
    if record.get("recipe") != recipe or record.get("files") != hashes(folder):
        return None
    return record


def verify(folder: str | Path) -> dict:
    """The record of a checkpoint whose files are what it says.

    Raises:
        UserError: no record (unfinished), or a file that is missing or changed.
    """
    path = Path(folder) / COMPLETE
    if not path.is_file():
        raise UserError(f"{path}: no such record; remove {path.parents[1]} and train again")
    record = read_json(path, "completion record of a training")
    found, imported = hashes(folder), record.get("stage") == "import"
    for name in sorted(set(record["files"]) | set(found)):
        if record["files"].get(name) != found.get(name):
            raise UserError(
                f"{folder}/{name}: not as {'the import' if imported else 'training'} wrote it;"
                f" remove {folder if imported else Path(folder).parent} and"
                f" {'import it' if imported else 'train'} again"
            )
    return record


def load_tuned_language_model(subject: dict):
    """The language model alone of a run, a base or a reference, as it was trained.

    Args:
        subject: `{base, mode, checkpoint, precision}`; mode None and "frozen" mean the untuned
            base. Adapters are merged, but for QLoRA, whose base stays in 4 bits.

    Returns:
        (model in eval mode, tokenizer)
    """
    base, mode, dtype = subject["base"], subject["mode"], DTYPES[subject["precision"]]
    tokenizer = tokenizer_of(subject)
    if mode == "full":
        tuned = {**base, "model": str(Path(subject["checkpoint"]) / "llm"), "revision": None}
        return load_language_model(tuned, dtype).eval(), tokenizer
    model = load_language_model(base, dtype, four_bit=mode == "qlora")
    load_embeddings(model, subject["checkpoint"])
    if mode in ("lora", "qlora"):
        adapted = load_adapter(model, Path(subject["checkpoint"]) / "adapter")
        model = adapted.merge_and_unload() if mode == "lora" else adapted.get_base_model()
    return model.eval(), tokenizer


def load_adapter(model, folder: str | Path) -> PeftModel:
    """Puts a saved adapter into a language model.

    Raises:
        UserError: the adapter is another model's, in whole or in part.
    """
    from peft import PeftModel  # takes a second, which most evaluations can do without

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Found missing adapter keys")  # refused below
        adapted = PeftModel.from_pretrained(model, folder)
    check_adapter(adapted, folder)
    return adapted


def check_adapter(adapted: PeftModel, folder: str | Path) -> None:
    """Refuses a saved adapter whose tensors aren't those of a model that it is for.

    Without this, peft leaves the model, or a part of it, as if it had never been tuned.

    Raises:
        UserError: tensors are missing, or fit nowhere.
    """
    path = Path(folder) / "adapter_model.safetensors"
    with safe_open(path, "pt") as file:
        saved = set(file.keys())
    learned = (name for name, _ in adapted.named_parameters() if ".lora_" in name)
    wanted = {name.replace(".default.", ".") for name in learned}
    if saved != wanted:
        raise UserError(
            f"{path}: not an adapter of this base: {len(wanted - saved)} tensors are missing,"
            f" {len(saved - wanted)} fit nowhere, the first is {min(saved ^ wanted)}; train or"
            " import it again"
        )


def tokenizer_of(subject: dict):
    """The tokenizer of a run, base or reference: an import's own, else the base's."""
    own = Path(subject["checkpoint"] or "") / "tokenizer"
    if subject["checkpoint"] and own.is_dir():
        return load_tokenizer({"model": str(own), "revision": None})
    return load_tokenizer(subject["base"])


def load_embeddings(model, folder: str | Path | None) -> None:
    """Puts an import's own embeddings and head into a language model, where it has them."""
    path = Path(folder or "") / EMBEDDINGS
    if not folder or not path.is_file():
        return
    state = load_file(path)
    parts = {"input": model.get_input_embeddings, "output": model.get_output_embeddings}
    rows = len(parts["input"]().weight)
    if "output" in state and model.config.tie_word_embeddings:
        # Trained apart, they are two matrices now.
        model.config.tie_word_embeddings = False
        parts["output"]().weight = torch.nn.Parameter(parts["output"]().weight.detach().clone())
    model.resize_token_embeddings(len(next(iter(state.values()))), mean_resizing=False)
    for name, part in parts.items():
        weight = part().weight.data
        if name in state:
            weight.copy_(state[name])
        elif not model.config.tie_word_embeddings:
            # LLaVA gives added tokens the mean of all others, and a frozen head keeps it.
            weight[rows:] = weight[:rows].mean(0)


def image_marks_of(folder: str | Path) -> list[str] | None:
    """Texts around the image that an imported model was trained with; None for none."""
    return read_json(Path(folder) / COMPLETE, "completion record of a training").get("image_marks")


def load_tuned(subject: dict, tower: dict):
    """The whole multimodal model of a run or of an untuned base with its aligned projector.

    Returns:
        (model in eval mode, tokenizer)
    """
    language_model, tokenizer = load_tuned_language_model(subject)
    dtype = DTYPES[subject["precision"]]
    model = build(subject["base"], tower, tokenizer, dtype, language_model=language_model)
    load_projector(model, subject["projector"])
    return model.to(device()).eval(), tokenizer


def forget_unused() -> None:
    """Frees the memory of models that nothing but themselves refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("cpu")
