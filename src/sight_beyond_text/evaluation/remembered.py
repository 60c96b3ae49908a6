"""Answers that a model has given already, kept on disk: what is known isn't asked again.

A file holds one model's answers to any number of tasks, a line each, in the order in which they
were given. So an interrupted evaluation goes on where it was, and a finished one, or one with a
benchmark more, asks only for what is new, or doesn't even load the model.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from sight_beyond_text.evaluation.answer_file import Answers, key_of


class RememberingLM(LM):
    """An lm-eval model that asks another one only what it doesn't know.

    Attributes:
        asked: requests that the other model was really asked.
        truncated: tokens cut from the left of requests that were too long, by their arguments.
    """

    def __init__(self, answers: Answers, load: Callable[[], LM]):
        """Takes over what is known.

        Args:
            answers: what is known, and where new answers go.
            load: makes the other model; called once, when it is needed.
        """
        super().__init__()
        self.answers, self.load = answers, load
        self.asked = 0
        self.truncated: dict[tuple, int] = {}
        self._asked: dict[tuple, list[tuple]] = {}
        self._written = time.monotonic()
        self._model: LM | None = None

    @property
    def model(self) -> LM:
        """The other model."""
        if self._model is None:
            self._model = self.load()
            self._model.set_cache_hook(_Hook(self))
        return self._model

    @property
    def loaded(self) -> LM | None:
        """The other model if it was needed so far."""
        return self._model

    @property
    def tokenizer_name(self) -> str:
        return self.model.tokenizer_name

    def apply_chat_template(self, chat_history, add_generation_prompt: bool = True):
        return self.model.apply_chat_template(chat_history, add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self.model.chat_template(chat_template)

    def loglikelihood(self, requests, disable_tqdm: bool = False):
        return [tuple(answer) for answer in self._answered("loglikelihood", requests)]

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = False):
        return self._answered("loglikelihood_rolling", requests)

    def generate_until(self, requests, disable_tqdm: bool = False):
        return self._answered("generate_until", requests)

    def _answered(self, kind: str, requests: list[Instance]) -> list[Any]:
        keys = [key_of(kind, request.args) for request in requests]
        known = self.answers.known
        # The same request may stand in several tasks; a random one is asked each time.
        new: dict[Any, Instance] = {}
        for number, (key, request) in enumerate(zip(keys, requests, strict=True)):
            if _is_random(kind, request.args):
                keys[number] = key = (key, number)
            if key not in known:
                new[key] = request
        given = {}
        if new:
            self.asked += len(new)
            self._asked = defaultdict(list)
            for request in new.values():
                self._asked[_texts(request.args)].append(request.args)
            found = getattr(self.model, kind)(list(new.values()))
            given = dict(zip(new, found, strict=True))
            for key, request in new.items():
                # Some models tell of an answer only what can't be traced to its request.
                if key not in known and not _is_random(kind, request.args):
                    self.answers.add(key, given[key], self._cut(request.args))
            self.answers.flush()
        for key, request in zip(keys, requests, strict=True):
            cut = known[key][1] if key in known else self._cut(request.args)
            if cut:
                self.truncated[_texts(request.args)] = cut
        return [given[key] if key in given else known[key][0] for key in keys]

    def keep(self, kind: str, arguments: tuple, answer: Any) -> None:
        """Keeps one answer, as soon as the model has given it.

        Args:
            kind: of request.
            arguments: the request's, as the model tells them: vLLM's puts other settings there.
            answer: the model's.
        """
        asked = self._asked.get(_texts(arguments), [])
        if len(asked) == 1:
            arguments = asked[0]
        elif arguments not in asked:
            return
        if _is_random(kind, arguments):
            return
        self.answers.add(key_of(kind, arguments), answer, self._cut(arguments))
        now = time.monotonic()
        if len(self.answers.known) % FLUSH_EVERY == 0 or now - self._written > FLUSH_AFTER:
            self.answers.flush()
            self._written = now

    def _cut(self, arguments: tuple) -> int:
        """Tokens that the model has cut from a request that it was asked just now."""
        return getattr(self.model, "truncated", {}).get(_texts(arguments), 0)


FLUSH_EVERY = 64
"""Answers that are written at once, at most ..."""

FLUSH_AFTER = 10.0
"""... and seconds after which those that there are get written."""


def _is_random(kind: str, arguments: tuple) -> bool:
    """Whether the answer would be another one each time."""
    return kind == "generate_until" and bool(arguments[1].get("do_sample"))


def _texts(arguments: tuple) -> tuple[str, ...]:
    return tuple(part for part in arguments if isinstance(part, str))


class _Hook:
    """What lm-eval's models tell each answer to, as soon as they have it."""

    def __init__(self, remembering: RememberingLM):
        self.remembering = remembering

    def add_partial(self, kind: str, arguments: tuple, answer: Any) -> None:
        """One more answer."""
        self.remembering.keep(kind, tuple(arguments), answer)
