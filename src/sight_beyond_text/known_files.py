"""What is known of published files before they are fetched: how many samples, about how long.

Counts are those that the authors give; lengths follow from the files' sizes, less what their layout
(two spaces of indentation) takes, and from samples of the same kind.
"""

from __future__ import annotations

from typing import Any

from sight_beyond_text.lengths import Sample
from sight_beyond_text.study import MICRO, RESOURCE, Study

FILES = {
    # 131 MB; half conversations, half complex reasoning (its maintainer in issue 488 of
    # haotian-liu/LLaVA). 79.6 MB of 76,643 samples of reasoning are 820 characters each, 126 MB of
    # 56,681 conversations 1,580, of 256,870 questions (docs/Data.md there; issue 17 of VIGC).
    "liuhaotian/LLaVA-Instruct-150K/llava_instruct_80k.json": (
        Sample("conversation", True, 208, 1290, 4, 20_000),
        Sample("conversation", True, 258, 1404, 5, 20_000),
        Sample("reasoning", True, 90, 730, 1, 40_000),
    ),
    "liuhaotian/LLaVA-Instruct-150K/conversation_58k.json": (
        Sample("conversation", True, 208, 1290, 4, 28_340),
        Sample("conversation", True, 258, 1404, 5, 28_341),
    ),
    # 20.5 MB.
    "liuhaotian/LLaVA-Instruct-150K/detail_23k.json": (Sample("detail", True, 70, 590, 1, 23_240),),
    "liuhaotian/LLaVA-Instruct-150K/complex_reasoning_77k.json": (
        Sample("reasoning", True, 90, 730, 1, 76_643),
    ),
    # 211 MB; of 354 bytes a pair, 130 are text, 60 of them a caption.
    "liuhaotian/LLaVA-CC3M-Pretrain-595K/chat.json": (Sample(None, True, 70, 60, 1, 595_375),),
    # 22.8 MB in its own layout.
    "alpaca_data.json": (Sample(None, False, 80, 270, 1, 52_002),),
}
"""By a hub's repository and file, or by an address' file."""

_MADE = "resources/instructions/"

PHOTOS = {
    "captions_train2017.json": 118_287,
    "captions_val2017.json": 5_000,
    "captions_train2014.json": 82_783,
    "captions_val2014.json": 40_504,
}
"""Photos of COCO's files."""


def known_samples(study: Study, path: str, alignment: bool) -> tuple[Sample, ...] | None:
    """The samples of a file that isn't here yet, as far as the study's resources tell it.

    Args:
        study: names the file somewhere, or makes it from COCO.
        path: where it will lie (`study.path`).
        alignment: whether it is that of stage 1.

    Returns:
        None where nothing is known of it.
    """
    for name in study.resources:
        folder = study.resource_folder(name)
        if path.startswith(f"{folder}/"):
            return _fetched(study, name, path.removeprefix(f"{folder}/"))
    given = study.data.alignment if alignment else study.data.instructions
    return _made(study, alignment) if given is None and path.startswith(_MADE) else None


def _fetched(study: Study, name: str, file: str) -> tuple[Sample, ...] | None:
    for item in study.resources[name].items:
        if item.repo is not None and f"{item.repo}/{file}" in FILES:
            if item.files is None or file in item.files:
                return FILES[f"{item.repo}/{file}"]
        elif item.url is not None and item.url.rpartition("/")[2] == file and file in FILES:
            return FILES[file]
    return None


def _made(study: Study, alignment: bool) -> tuple[Sample, ...] | None:
    """Of instructions by rule, as they come out of COCO's photos (`data.instructions`)."""
    captions, make = study.data.captions, study.data.make
    if captions is None or captions.startswith(MICRO):
        return None
    photos = PHOTOS.get(captions.removeprefix(RESOURCE).rpartition("/")[2])
    if photos is None:
        return None
    photos = min(photos, make.max_images or photos)
    if alignment:
        return (Sample(None, True, 27, 53, 1, photos * min(5, make.captions_per_image)),)
    # Of COCO's photos, 98 in 100 show something to ask for, and two thirds something to reason on.
    asked: list[tuple[str, Any, Any, Any, float]] = [
        ("conversation", 27 * make.turns, 3.6 * make.turns, make.turns, 0.98 * make.conversations),
        ("detail", 45, 130, 1, make.detail),
        ("reasoning", 46, 49, 1, 0.67 * make.reasoning),
    ]
    return tuple(
        Sample(kind, True, question, answer, turns, photos * share)
        for kind, question, answer, turns, share in asked
        if share
    )
