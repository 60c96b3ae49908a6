"""A conversation with a run, a base or a reference in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from sight_beyond_text.data.samples import Pixels
from sight_beyond_text.data.templates import IMAGE
from sight_beyond_text.errors import UserError
from sight_beyond_text.evaluation.answers import cut, endings, prompt_ids
from sight_beyond_text.models.building import (
    image_positions,
    image_token,
    load_processor,
    padding_token,
)
from sight_beyond_text.models.checkpoints import (
    device,
    image_marks_of,
    load_tuned,
    load_tuned_language_model,
)

HELP = "/new begins another conversation, /quit (or Ctrl-D) leaves; Ctrl-C stops an answer"


class Conversation:
    """What was said so far, and a model that answers as it does in the evaluation.

    Args:
        subject: what to talk with (`runs.find`).
        image: an image file that the first question is about; the language model alone is loaded
            without one.
        max_new_tokens: limit of an answer.

    Raises:
        UserError: it can't be loaded, has no vision part, or the image can't be read.
    """

    def __init__(self, subject: dict, image: Path | None = None, max_new_tokens: int = 256):
        if subject["template"] is None:
            raise UserError(
                f"{subject['id']}: the prompt template isn't known; talk with it as a reference of"
                " a study that says it (--study)"
            )
        self.template, self.max_new_tokens = subject["template"], max_new_tokens
        self.turns: list[tuple[str, str]] = []
        self.pixels = self.marks = None
        self.patches = 0
        if image is None:
            model, self.tokenizer = load_tuned_language_model(subject)
            self.model = model.to(device()).eval()
            rows = model.get_input_embeddings().weight.shape[0]
            self.image_token = image_token(self.tokenizer, rows)
        else:
            if subject["projector"] is None:
                raise UserError(f"{subject['id']}: a language model alone; leave --image out")
            # The image first: it is read at once, the model isn't.
            pixels = Pixels(image.parent, load_processor(subject["tower"]))(image.name)
            self.model, self.tokenizer = load_tuned(subject, subject["tower"])
            self.pixels = pixels[None].to(self.model.device, self.model.dtype)
            self.marks = image_marks_of(subject["projector"])
            self.image_token = self.model.config.image_token_id
            self.patches = image_positions(self.model.config.vision_config)
        config = self.model.config.get_text_config()
        self.positions = getattr(config, "max_position_embeddings", None)
        self.stops, self.ends = endings(self.template, self.tokenizer)

    @torch.inference_mode()
    def answer(self, text: str, say: Callable[[str], None] = lambda part: None) -> str:
        """The answer to what is said next; both become part of the conversation.

        Args:
            text: what the human says.
            say: is given the answer piece by piece, as it is made.

        Raises:
            UserError: the conversation has grown too long for the model.
            KeyboardInterrupt: passed on; the part that was said is kept.
        """
        asked = f"{IMAGE}\n{text}" if self.pixels is not None and not self.turns else text
        ids = prompt_ids(
            [*self.turns, (asked, "")],
            self.template,
            self.tokenizer,
            self.image_token,
            self.patches,
            self.marks,
        )
        room = self.max_new_tokens
        if self.positions is not None:
            room = min(room, self.positions - len(ids))
        if room < 1:
            raise UserError(
                f"the conversation takes {len(ids)} positions, the model has {self.positions};"
                " begin another (/new)"
            )
        stream = _Stream(self.tokenizer, self.stops, len(ids), say)
        given = torch.tensor([ids], device=self.model.device)
        images = {} if self.pixels is None else {"pixel_values": self.pixels}
        try:
            self.model.generate(
                input_ids=given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=room,
                do_sample=False,
                num_beams=1,
                pad_token_id=padding_token(self.tokenizer, self.image_token),
                eos_token_id=self.ends,
                stopping_criteria=StoppingCriteriaList([stream]),
                **images,
            )
            stream.end()
        finally:
            self.turns.append((asked, stream.answer))
        return stream.answer


class _Stream(StoppingCriteria):
    """Passes an answer on as it grows, and ends it at a stop text.

    What may yet become a stop text, and characters of which tokens are missing, are held back.
    """

    def __init__(self, tokenizer, stops: Sequence[str], asked: int, say: Callable[[str], None]):
        self.tokenizer, self.stops, self.asked, self.say = tokenizer, stops, asked, say
        self.text = ""
        self.said = 0

    @property
    def answer(self) -> str:
        """The answer so far, as the evaluation would cut it."""
        return cut(self.text, self.stops)

    def __call__(self, input_ids: torch.Tensor, scores, **kwargs) -> torch.Tensor:
        """Takes prompt and answer after each token; whether generation is over, (1,)."""
        self.text = self.tokenizer.decode(input_ids[0, self.asked :])
        ended = any(stop in self.text for stop in self.stops)
        self._say(self.answer if ended else _certain(self.text, self.stops))
        return torch.tensor([ended], device=input_ids.device)

    def end(self) -> None:
        """Says what was held back."""
        self._say(self.answer)

    def _say(self, text: str) -> None:
        if len(text) > self.said:
            part, self.said = text[self.said :], len(text)
            self.say(part)


def _certain(text: str, stops: Sequence[str]) -> str:
    """The beginning of an answer that later tokens can't change."""
    held = max(
        (size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])),
        default=0,
    )
    return text[: len(text) - held].rstrip("\ufffd").strip()


def converse(conversation: Conversation) -> None:
    """Talks in the terminal until /quit or the end of the input."""
    print(HELP, file=sys.stderr)
    while True:
        try:
            text = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if text == "/quit":
            return
        if text == "/new":
            conversation.turns.clear()
        elif text.startswith("/"):
            print(HELP, file=sys.stderr)
        elif text:
            try:
                conversation.answer(text, _write)
                print()
            except KeyboardInterrupt:
                print(" (stopped)")
            except UserError as error:
                print(f"error: {error}", file=sys.stderr)


def _write(text: str) -> None:
    print(text, end="", flush=True)
