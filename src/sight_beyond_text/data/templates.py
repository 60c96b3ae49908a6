"""Prompt templates: a conversation becomes segments, each marked learn or don't.

Tokens and labels both come from that one list of segments, so a mask can't drift from its text.
Forms after LLaVA's templates (`plain`, `v0`, `v1`, `llava_llama_2`); `chat` is the tokenizer's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Segment:
    """A piece of a prompt.

    Attributes:
        text: the text; `IMAGE` alone stands for the image.
        learn: whether the loss is taken on its tokens.
    """

    text: str
    learn: bool = False


def end_marks(template: str, tokenizer) -> tuple[str, ...]:
    """What ends an assistant's turn: generation stops there, and answers are cut there."""
    laid = segments([("?", "!")], template, tokenizer)
    mark = "".join(segment.text for segment in laid if segment.learn).split("!", 1)[1]
    eos = tokenizer.eos_token or ""
    return tuple(dict.fromkeys(text for text in (mark.strip() or mark, eos) if text))


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
        template: one of `TEMPLATES`.
        tokenizer: gives `bos_token`, `eos_token` and, for `chat`, the chat template.
        answer_last: leave the last assistant text out, for generation.

    Returns:
        Segments whose texts joined are the prompt; those to learn are exactly the assistant's
        texts and their end marks.

    Raises:
        UserError: an unknown template, or `chat` with a tokenizer that has none.
    """
    turns = [(_image_first(human), answer) for human, answer in turns]
    eos = tokenizer.eos_token or ""
    if template == "plain":
        laid = _plain(turns)
    elif template == "v0":
        laid = _v0(turns)
    elif template == "v1":
        laid = _v1(turns, eos)
    elif template == "llava_llama_2":
        laid = _llama_2(turns, eos, tokenizer.bos_token or "")
    elif template == "chat":
        laid = _chat(turns, tokenizer)
    else:
        raise UserError(f"no template {template!r}; there are: {', '.join(TEMPLATES)}")
    if answer_last:
        while laid and not laid[-1].learn:
            laid.pop()
        del laid[-1:]
        # A space before the answer belongs to the answer's first token.
        if laid and not laid[-1].learn:
            laid[-1] = Segment(laid[-1].text.rstrip(" "))
    return _split_images(laid)


def _image_first(human: str) -> str:
    if IMAGE not in human:
        return human.strip()
    rest = human.replace(IMAGE, "").strip()
    return f"{IMAGE}\n{rest}" if rest else IMAGE


def _plain(turns) -> list[Segment]:
    laid = []
    for human, answer in turns:
        if IMAGE in human:
            laid.append(Segment(IMAGE))
        laid.append(Segment(f"{answer.strip()}\n", True))
    return laid


def _v0(turns) -> list[Segment]:
    laid = [Segment(f"{_V0_SYSTEM}\n###")]
    for human, answer in turns:
        laid.append(Segment(f" Human: {human}\n### Assistant:"))
        laid.append(Segment(f" {answer.strip()}\n###", True))
    return laid


def _v1(turns, eos: str) -> list[Segment]:
    laid = [Segment(f"{_V1_SYSTEM} ")]
    for human, answer in turns:
        laid.append(Segment(f"USER: {human} ASSISTANT:"))
        laid.append(Segment(f" {answer.strip()}{eos}", True))
    return laid


def _llama_2(turns, eos: str, bos: str) -> list[Segment]:
    laid = []
    for index, (human, answer) in enumerate(turns):
        system = f"<<SYS>>\n{_LLAMA_2_SYSTEM}\n<</SYS>>\n\n" if index == 0 else ""
        laid.append(Segment(f"{bos if index else ''}[INST] {system}{human} [/INST]"))
        laid.append(Segment(f" {answer.strip()} {eos}", True))
    return laid


def _chat(turns, tokenizer) -> list[Segment]:
    """The tokenizer's own chat template: what each assistant turn adds to the text is learned."""
    if not tokenizer.chat_template:
        raise UserError("the tokenizer has no chat template; choose another template for this base")
    messages, laid, done = [], [], ""
    bos = tokenizer.bos_token or ""
    for human, answer in turns:
        messages.append({"role": "user", "content": human})
        asked = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        messages.append({"role": "assistant", "content": answer.strip()})
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
        if not (asked.startswith(done) and whole.startswith(asked)):
            raise UserError(
                "the tokenizer's chat template rewrites earlier turns, so the assistant's tokens"
                " can't be told apart; choose another template for this base"
            )
        laid.append(Segment(asked[len(done) :]))
        laid.append(Segment(whole[len(asked) :], True))
        done = whole
    if bos and laid and laid[0].text.startswith(bos):
        laid[0] = Segment(laid[0].text[len(bos) :])
    return laid


def _split_images(laid: list[Segment]) -> list[Segment]:
    """Cuts each segment at its image marks, so that an image is a segment of its own."""
    out = []
    for segment in laid:
        parts = segment.text.split(IMAGE)
        for index, part in enumerate(parts):
            if index:
                out.append(Segment(IMAGE))
            if part:
                out.append(Segment(part, segment.learn))
    return out
