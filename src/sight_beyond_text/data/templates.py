"""Prompt templates: a conversation becomes segments, each marked learn or don't.

Tokens and labels both come from that one list of segments, so a mask can't drift from its text.
Forms after LLaVA's templates (`plain`, `v0`, `v1`, `llava_llama_2`); `chat` is the tokenizer's own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from sight_beyond_text.errors import UserError

IMAGE = "<image>"
"""The place of the image in a text."""

TEMPLATES = ("plain", "v0", "v1", "llava_llama_2", "chat")

_V0_SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
_V1_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_LLAMA_2_SYSTEM = (
    "You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)

# Some chat templates write the day into the prompt; it must not change overnight.
_DAY = "26 Jul 2024"
SAME_DAY = f"{{% macro strftime_now(form) %}}{_DAY}{{% endmacro %}}"
CHAT_SETTINGS = {"enable_thinking": False, "date_string": _DAY}
"""What `SAME_DAY` and a chat template are rendered with."""


@dataclass(frozen=True)
class Segment:
    """A piece of a prompt.

    Attributes:
        text: the text; where `mark` is true, one token's name, or `IMAGE` for the image.
        learn: whether the loss is taken on its tokens.
        mark: whether it stands for that token itself. Only templates set marks: whatever people
            or models wrote, "</s>" included, is text and becomes tokens of plain text.
    """

    text: str
    learn: bool = False
    mark: bool = False

    @property
    def is_image(self) -> bool:
        """Whether the image stands here."""
        return self.mark and self.text == IMAGE


def end_marks(template: str, tokenizer) -> tuple[str, ...]:
    """What ends an assistant's turn: generation stops there, and answers are cut there."""
    laid = segments([("?", "!")], template, tokenizer)
    learned = [segment for segment in laid if segment.learn]
    text = "".join(segment.text for segment in learned).split("!", 1)[1]
    mark = next((segment.text for segment in learned if segment.mark), text.strip() or text)
    eos = tokenizer.eos_token or ""
    return tuple(dict.fromkeys(end for end in (mark, eos) if end))


def turns_of(conversation: Sequence[dict], where: str) -> list[tuple[str, str]]:
    """LLaVA's `conversations` as (human, assistant) pairs.

    Raises:
        UserError: roles that don't take turns, or a turn without text; `where` names the sample.
    """
    if not conversation or len(conversation) % 2:
        raise UserError(
            f"{where}: a conversation has {len(conversation)} turns; human and gpt must take turns"
        )
    pairs = []
    for index in range(0, len(conversation), 2):
        said = []
        for offset, role in enumerate(("human", "gpt")):
            turn = conversation[index + offset]
            if not isinstance(turn, dict):
                raise UserError(f"{where}: turn {index + offset + 1} isn't an object")
            if turn.get("from") != role or not isinstance(turn.get("value"), str):
                raise UserError(
                    f"{where}: turn {index + offset + 1} should be from {role!r} with a text value,"
                    f" found from {turn.get('from')!r}"
                )
            said.append(turn["value"])
        pairs.append((said[0], said[1]))
    return pairs


def segments(
    turns: Sequence[tuple[str, str]],
    template: str,
    tokenizer,
    answer_last: bool = False,
) -> list[Segment]:
    """Lays a conversation out in a template.

    Args:
        turns: (human, assistant) pairs; `IMAGE` in a human text moves to the start of its turn.
            In an assistant's text it is text.
        template: one of `TEMPLATES`.
        tokenizer: gives `bos_token`, `eos_token` and, for `chat`, the chat template.
        answer_last: leave the last assistant text out, for generation.

    Returns:
        Segments whose texts joined are the prompt; those to learn are exactly the assistant's
        texts and their end marks. With `answer_last` they are the same but for the last ones.

    Raises:
        UserError: an unknown template, or one that this tokenizer can't serve.
    """
    if template not in TEMPLATES:
        raise UserError(f"no template {template!r}; there are: {', '.join(TEMPLATES)}")
    if template in ("v1", "llava_llama_2") and not tokenizer.eos_token:
        raise UserError(
            f"template {template!r} ends answers with the tokenizer's end of text, and it has none;"
            " choose another template for this base"
        )
    turns = [(IMAGE in human, human.replace(IMAGE, "").strip(), said) for human, said in turns]
    turns = [(image, human, said.strip()) for image, human, said in turns]
    laid = {"plain": _plain, "v0": _v0, "v1": _v1, "llava_llama_2": _llama_2, "chat": _chat}[
        template
    ](turns, tokenizer)
    if answer_last:
        del laid[-1]
    return [segment for part in laid for segment in part]


# Each template gives a list with two entries a turn: what is asked, and what is learned.


def _asked(before: str, image: bool, human: str, after: str) -> list[Segment]:
    if not image:
        return [Segment(f"{before}{human}{after}")]
    words = f"\n{human}" if human else ""
    return [Segment(before), Segment(IMAGE, mark=True), Segment(f"{words}{after}")]


def _plain(turns, tokenizer) -> list[list[Segment]]:
    laid = []
    for image, _, answer in turns:
        laid.append([Segment(IMAGE, mark=True)] if image else [])
        laid.append([Segment(f"{answer}\n", True)])
    return laid


def _v0(turns, tokenizer) -> list[list[Segment]]:
    laid, before = [], f"{_V0_SYSTEM}\n\n###"
    for image, human, answer in turns:
        laid.append(_asked(f"{before} Human: ", image, human, "\n### Assistant:"))
        laid.append([Segment(f" {answer}\n###", True)])
        before = ""
    return laid


def _v1(turns, tokenizer) -> list[list[Segment]]:
    laid, before = [], f"{_V1_SYSTEM} "
    for image, human, answer in turns:
        laid.append(_asked(f"{before}USER: ", image, human, " ASSISTANT:"))
        laid.append([Segment(f" {answer}", True), Segment(tokenizer.eos_token, True, mark=True)])
        before = ""
    return laid


def _llama_2(turns, tokenizer) -> list[list[Segment]]:
    laid, system = [], f"<<SYS>>\n{_LLAMA_2_SYSTEM}\n<</SYS>>\n\n"
    for image, human, answer in turns:
        again = laid and tokenizer.bos_token
        opening = [Segment(tokenizer.bos_token, mark=True)] if again else []
        laid.append([*opening, *_asked(f"[INST] {system}", image, human, " [/INST]")])
        laid.append([Segment(f" {answer} ", True), Segment(tokenizer.eos_token, True, mark=True)])
        system = ""
    return laid


class _Signs(NamedTuple):
    """Characters that stand for something else while a chat template is at work."""

    cut: str
    image: str
    start: str
    end: str


def _chat(turns, tokenizer) -> list[list[Segment]]:
    """The tokenizer's own chat template, rendered once for the whole conversation.

    What is learned of a turn: what the template puts between its prompt for an answer and the
    answer (most often nothing), the answer, and what ends it.
    """
    if not tokenizer.chat_template:
        raise UserError("the tokenizer has no chat template; choose another template for this base")
    template = tokenizer.get_chat_template()
    marks = _marks(tokenizer, template)
    signs = _unused_signs("".join(human + answer for _, human, answer in turns))
    messages = []
    for image, human, answer in turns:
        place = signs.image + "\n" * bool(human) if image else ""
        messages.append({"role": "user", "content": place + _shielded(human, marks, signs)})
        said = f"{signs.start}{_shielded(answer, marks, signs)}{signs.end}"
        messages.append({"role": "assistant", "content": said})
    whole = _rendered(tokenizer, template, messages, False)
    # A space before the answer belongs to the answer's first token.
    asked = _rendered(tokenizer, template, messages[:-1], True).rstrip(" ")
    places = [at for at, sign in enumerate(whole) if sign in (signs.start, signs.end)]
    kept = [whole[at] for at in places] == [signs.start, signs.end] * len(turns)
    if not (kept and whole[: places[-2]].startswith(asked)):
        raise UserError(
            "the tokenizer's chat template rewrites earlier turns, so the assistant's tokens"
            " can't be told apart; choose another template for this base"
        )
    lead = whole[len(asked) : places[-2]]
    end = _pieces(whole[places[-1] + 1 :], marks, signs, True)
    laid, done = [], 0
    for start, stop in zip(places[::2], places[1::2], strict=True):
        begin = start - len(lead) if whole.endswith(lead, done, start) else start
        after = stop + 1
        for piece in end:
            if not whole.startswith(piece.text, after):
                break
            after += len(piece.text)
        laid.append(_pieces(whole[done:begin], marks, signs, False))
        laid.append(_pieces(whole[begin:after], marks, signs, True))
        done = after
    if laid[0][:1] == [Segment(tokenizer.bos_token, mark=True)]:
        del laid[0][0]  # every sequence opens with it
    return laid


def _rendered(tokenizer, template: str, messages: list[dict], prompt: bool) -> str:
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(
            messages,
            chat_template=SAME_DAY + template,
            tokenize=False,
            add_generation_prompt=prompt,
            **CHAT_SETTINGS,
        )
    except TemplateError as error:
        raise UserError(
            f"the tokenizer's chat template refuses a conversation: {error};"
            " choose another template for this base"
        ) from None


def _unused_signs(text: str) -> _Signs:
    """Private characters that a text doesn't hold."""
    held = set(text)
    return _Signs(
        *islice((sign for sign in map(chr, range(0xE000, 0xF900)) if sign not in held), 4)
    )


@lru_cache(maxsize=8)
def _marks(tokenizer, template: str) -> tuple[str, ...]:
    """Names of the tokens that a chat template may write and texts may not, the longest first."""
    names = {
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        # Not every tokenizer calls the marks of its own turns special.
        if token.special or token.content in template
    }
    return tuple(sorted((n for n in names if len(n) > 1 and not n.isspace()), key=len)[::-1])


def _shielded(text: str, marks: Sequence[str], signs: _Signs) -> str:
    """A text cut inside every name of a mark, so that no piece of it is one."""
    if not marks:
        return text
    names = "|".join(map(re.escape, marks))
    cuts = {found.start() + 1 for found in re.finditer(f"(?={names})", text)}
    return "".join(signs.cut * (at in cuts) + sign for at, sign in enumerate(text))


def _pieces(text: str, marks: Sequence[str], signs: _Signs, learn: bool) -> list[Segment]:
    """Rendered text as segments: the template's own marks, the image, and text between them."""
    out = []
    names = "|".join(map(re.escape, (*marks, signs.image, signs.cut)))
    text = text.replace(signs.start, "").replace(signs.end, "")
    for index, part in enumerate(re.split(f"({names})", text)):
        if part == signs.image:
            out.append(Segment(IMAGE, mark=True))
        elif part and part != signs.cut:
            out.append(Segment(part, learn, mark=index % 2 == 1))
    return out
