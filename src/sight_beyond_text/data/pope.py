"""POPE questions (random, popular, adversarial) from COCO instances, by the benchmark's rule.

Li et al., "Evaluating Object Hallucination in Large Vision-Language Models" (2023): half of the
questions ask for things that are there; the other half for absent ones, drawn at random, by how
often a category occurs, or by how often it occurs together with what is there.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from sight_beyond_text.data.coco import Picture
from sight_beyond_text.data.words import article
from sight_beyond_text.errors import UserError

STRATEGIES = ("random", "popular", "adversarial")


def pope_questions(
    pictures: Sequence[Picture],
    strategy: str,
    images: int = 500,
    pairs: int = 3,
    seed: int = 0,
) -> list[dict]:
    """POPE questions in the benchmark's layout.

    Args:
        pictures: COCO pictures; frequencies are taken over all of them.
        strategy: how absent things are chosen, one of `STRATEGIES`.
        images: how many pictures to ask about, at most; those with at least `pairs` different
            things come first in line.
        pairs: questions with yes, and as many with no, a picture (fewer where fewer are there).
        seed: of the choice of pictures and things.

    Returns:
        Rows `{question_id, image, text, label}`, half of them "yes".

    Raises:
        UserError: an unknown strategy, no picture with a thing, or no question that can be asked.
    """
    if strategy not in STRATEGIES:
        raise UserError(f"no POPE strategy {strategy!r}; there are: {', '.join(STRATEGIES)}")
    present = {p.id: sorted({thing.category for thing in p.things}) for p in pictures}
    frequency = Counter(name for names in present.values() for name in names)
    together = Counter(
        (one, two) for names in present.values() for one in names for two in names if one != two
    )
    usable = [p for p in pictures if present[p.id]]
    if not usable:
        raise UserError("no annotated things in the pictures: POPE needs COCO instances")
    rng = random.Random(f"{seed} pope")
    rng.shuffle(usable)
    usable.sort(key=lambda p: len(present[p.id]) < pairs)
    rows: list[dict] = []
    for picture in sorted(usable[:images], key=lambda p: p.id):
        own = random.Random(f"{seed} {strategy} {picture.id}")
        here = present[picture.id]
        absent = sorted(set(frequency) - set(here) - picture.crowds)
        if strategy == "random":
            own.shuffle(absent)
        elif strategy == "popular":
            absent.sort(key=lambda name: (-frequency[name], name))
        else:
            absent.sort(key=lambda name: (-sum(together[name, other] for other in here), name))
        count = min(pairs, len(here), len(absent))
        for yes, no in zip(own.sample(here, count), absent, strict=False):
            for name, label in ((yes, "yes"), (no, "no")):
                rows.append(
                    {
                        "question_id": len(rows) + 1,
                        "image": picture.file_name,
                        "text": f"Is there {article(name)} {name} in the image?",
                        "label": label,
                    }
                )
    if not rows:
        raise UserError("no absent thing can be asked for: all pictures hold the same categories")
    return rows
