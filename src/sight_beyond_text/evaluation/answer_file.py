"""Answers of a model, kept on disk as they come, so that none is asked for twice. Light."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

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
