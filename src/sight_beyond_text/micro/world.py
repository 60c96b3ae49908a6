"""Writes the micro world's files: scenes, annotations, texts, benchmarks, tokenizer."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from sight_beyond_text.files import write_json
from sight_beyond_text.micro import corpus
from sight_beyond_text.micro.benchmarks import write_benchmarks
from sight_beyond_text.micro.scenes import captions, sample_scene, write_split


def write_world(settings: dict, folder: str | Path, record: str | Path) -> None:
    """Makes the world from its settings (`study.Micro` as a dict); `record` is written last.

    The val scenes come from their own random stream; a scene that was drawn for training may
    occur again by chance, as there are only so many.
    """
    from sight_beyond_text.micro.tokenizer import train_tokenizer

    folder = Path(folder)
    for part in ("images", "annotations", "texts", "benchmarks", "tokenizer"):
        shutil.rmtree(folder / part, ignore_errors=True)
    seed = settings["seed"]
    scenes = {}
    for split, count in (("train", settings["train_images"]), ("val", settings["val_images"])):
        rng = random.Random(f"scenes {split} {seed}")
        scenes[split] = [sample_scene(rng) for _ in range(count)]
    first_val = settings["train_images"] + 1
    write_split(scenes["train"], folder, "train", seed, 1)
    write_split(scenes["val"], folder, "val", seed, first_val)
    documents = corpus.documents(settings["documents"], seed)
    conversations = corpus.conversations(settings["conversations"], seed)
    write_json(folder / "texts" / "documents.json", documents, None)
    write_json(folder / "texts" / "conversations.json", conversations, None)
    write_benchmarks(folder, scenes["val"], first_val, seed)
    rng = random.Random(f"tokenizer {seed}")
    sample = documents[: settings["documents"] // 4]
    sample += [captions(scene, rng)[0] for scene in scenes["train"][:TOKENIZER_SCENES]]
    sample += [turn["value"] for row in conversations for turn in row["conversations"]]
    tokenizer = train_tokenizer(sample + PROMPTS * 50, settings["vocabulary"])
    tokenizer.save_pretrained(folder / "tokenizer")
    write_json(record, {"settings": settings, "scenes": {k: len(v) for k, v in scenes.items()}})


TOKENIZER_SCENES = 1600
"""Scenes whose captions the tokenizer is trained on; more of them say nothing new."""

PROMPTS = [
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives"
    " helpful, detailed, and polite answers to the user's questions. USER: Describe the image in"
    " detail. ASSISTANT: Please provide a description of the picture.",
    "The following are multiple choice questions (with answers) about elementary mathematics.",
    "Q: Where were the games held? A: They were held in the north. I have no comment.",
]
"""Words that prompts bring along, so that the tokenizer has seen them."""
