"""Answers that a model has given already, kept on disk: what is known isn't asked again.

A file holds one model's answers to any number of tasks, a line each, in the order in which they
were given. So an interrupted evaluation goes on where it was, and a finished one, or one with a
benchmark more, asks only for what is new, or doesn't even load the model.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from sight_beyond_text.errors import UserError


class Answers:
    """The file of one model's answers.

    A line is `[key, answer, cut]`: the key stands for the kind of request and its arguments, the
    answer is `[log-likelihood, greedy]` or a text, `cut` says how many tokens were too many.
    """

    def __init__(self, path: str | Path, model: str, others: Iterable[Path] = ()):
        """Reads what is there.

        Args:
            path: the file; it need not exist. One of another model is begun anew.
            model: identity of the weights and of all else that answers hang on.
            others: further files, which are only read; those of other models are passed over.

        Raises:
            UserError: a line of the model's own file can't be read.
        """
        self.path, self.known = Path(path), {}
        header = json.dumps({"model": model})
        for other in others:
            if other != self.path:
                self._learn(_whole_lines(other), other, header)
        _cut_off(self.path)
        own = self._learn(_whole_lines(self.path), self.path, header)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = open(self.path, "a" if own else "w", encoding="utf-8")
        if not own:
            self._stream.write(header + "\n")

    def _learn(self, lines: list[str], path: Path, header: str) -> bool:
        if not lines or lines[0] != header:
            return False
        for number, line in enumerate(lines[1:], 2):
            try:
                key, answer, cut = json.loads(line)
            except ValueError:
                raise UserError(f"{path}:{number}: broken; remove the file") from None
            self.known[key] = (answer, cut)
        return True

    def add(self, key: str, answer: Any, cut: int) -> None:
        """Keeps an answer; it is on disk after the next `flush`."""
        self.known[key] = (answer, cut)
        self._stream.write(json.dumps([key, answer, cut], ensure_ascii=False) + "\n")

    def flush(self) -> None:
        """Writes what was added to the file."""
        self._stream.flush()

    def close(self) -> None:
        """Closes the file."""
        self._stream.close()


def _whole_lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    # Not splitlines(): texts may hold other ends of line as they are.
    return path.read_bytes().decode(errors="replace").split("\n")[:-1]


def _cut_off(path: Path) -> None:
    """Removes a last line that wasn't written to its end."""
    if path.is_file():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)


def key_of(kind: str, arguments: Iterable[Any]) -> str:
    """What stands for a request: the same kind and arguments have the same key."""
    text = json.dumps([kind, *arguments], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


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
            found = getattr(self.model, kind)(list(new.values()))
            given = dict(zip(new, found, strict=True))
            self.answers.flush()
        for key, request in zip(keys, requests, strict=True):
            cut = known[key][1] if key in known else 0
            if cut:
                self.truncated[_texts(request.args)] = cut
        return [given[key] if key in given else known[key][0] for key in keys]

    def keep(self, kind: str, arguments: tuple, answer: Any) -> None:
        """Keeps one answer, as soon as the model has given it."""
        if _is_random(kind, arguments):
            return
        cut = getattr(self.model, "truncated", {}).get(_texts(arguments), 0)
        self.answers.add(key_of(kind, arguments), answer, cut)
        if len(self.answers.known) % FLUSH_EVERY == 0:
            self.answers.flush()


FLUSH_EVERY = 64
"""Answers that are written at once."""


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
