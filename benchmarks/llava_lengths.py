"""Lengths of LLaVA's conversations, in tokens, for benchmarks that need no texts.

    python benchmarks/llava_lengths.py DATA

DATA holds `llama2_tokenizer/` (with Llama 2's `tokenizer.model`) and `llava/`, from
`playground/data` of github.com/haotian-liu/LLaVA: `coco2014_val_gpt4_qa_30x3.jsonl`,
`coco2014_val_qa_eval/qa90_*.jsonl` (without their folder) and `prompts/`. Numbers alone are kept,
in `llava_lengths.json`.
"""

from __future__ import annotations

import json
import sys
from itertools import groupby
from pathlib import Path

TABLE = Path(__file__).with_name("llava_lengths.json")
TEMPLATE = "v1"
KINDS = {"conv": "conversation", "detail": "detail", "complex": "reasoning"}


def conversations(llava: Path) -> list[tuple[str, list[tuple[str, str]]]]:
    """(kind, turns) of LLaVA's published conversations, the image's mark in the first turn."""
    found = []
    for row in _rows(llava / "coco2014_val_gpt4_qa_30x3.jsonl"):
        found.append((KINDS[row["type"]], [(row["instruction"], row["output"])]))
    answers = {row["question_id"]: row["text"] for row in _rows(llava / "qa90_gpt4_answer.jsonl")}
    for row in _rows(llava / "qa90_questions.jsonl"):
        found.append((KINDS[row["category"]], [(row["text"], answers[row["question_id"]])]))
    # The examples shown to GPT-4: "Question:\n...\n===\nAnswer:\n...", parted by "===".
    for folder, kind in (("conversation", "conversation"), ("complex_reasoning", "reasoning")):
        for path in sorted((llava / "prompts" / folder).glob("*_conv.txt")):
            parts = [part.strip() for part in path.read_text("utf-8").split("===\n")]
            asked = [part.removeprefix("Question:\n") for part in parts[::2]]
            said = [part.removeprefix("Answer:\n") for part in parts[1::2]]
            found.append((kind, list(zip(asked, said, strict=True))))
    return [(kind, [("<image>\n" + t[0][0], t[0][1]), *t[1:]]) for kind, t in found]


def _rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def measured(data: Path) -> list[dict]:
    """Rows `{kind, lengths}` of all conversations.

    Returns:
        `lengths`: tokens before the image, then by turns of what is prompt and what is learned.
    """
    from sight_beyond_text.data.samples import IGNORED, encode
    from sight_beyond_text.data.templates import segments
    from sight_beyond_text.models.building import image_token, load_tokenizer

    tokenizer = load_tokenizer({"model": str(data / "llama2_tokenizer"), "revision": None})
    image = image_token(tokenizer, len(tokenizer))
    rows = []
    for kind, turns in conversations(data / "llava"):
        ids, labels = encode(segments(turns, TEMPLATE, tokenizer), tokenizer, image, 1)
        place = ids.index(image)
        after = groupby(label != IGNORED for label in labels[place + 1 :])
        rows.append({"kind": kind, "lengths": [place, *(len(list(run)) for _, run in after)]})
    return rows


def main() -> None:
    """Writes the table anew."""
    from sight_beyond_text.files import write_text

    if len(sys.argv) != 2:
        sys.exit(__doc__)
    table = {
        "source": "github.com/haotian-liu/LLaVA at c121f0432da27facab705978f83c4ada465e46fd:"
        " coco2014_val_gpt4_qa_30x3, qa90, prompts/conversation, prompts/complex_reasoning",
        "tokenizer": "Llama 2, 32,000 pieces",
        "template": TEMPLATE,
        "made_by": "python benchmarks/llava_lengths.py DATA",
    }
    head = json.dumps(table, indent=1)[:-2]
    rows = ",\n".join(f"  {json.dumps(row)}" for row in measured(Path(sys.argv[1])))
    write_text(TABLE, f'{head},\n "conversations": [\n{rows}\n ]\n}}\n')


if __name__ == "__main__":
    main()
