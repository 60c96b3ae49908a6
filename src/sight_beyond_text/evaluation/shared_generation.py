"""Generation whose prompts share what they begin with, and free their place when done.

All prompts of a group stand side by side in one row, after their common start: a token sees the
start, its own prompt and what was generated for it. So no key or value is held or read twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from sight_beyond_text.evaluation import prefix_tree, tree_attention
from sight_beyond_text.evaluation.tree_attention import SharedStart

REFILL = 4
"""New prompts are let in when this part of the room is free."""

ADMITTED = 1024
"""New prompts' tokens that are read at once, about: more make a pass no faster, but its mask, which
is as wide as it is long, larger."""

WHOLE = 4 * ADMITTED
"""Tokens of prompts that begin alike, at most, that are read at once whatever they share."""

Choose = Callable[[list[int], list[int], torch.Tensor], list[int]]
"""Chooses the next token of prompts, from their numbers, how many tokens each has got so far, and
the logits (prompts, vocabulary) in float32."""


def likeliest(numbers: list[int], steps: list[int], logits: torch.Tensor) -> list[int]:
    """The greedy choice."""
    return logits.argmax(-1).tolist()


@dataclass(slots=True)
class _Open:
    """A prompt that is being continued: its number, its row in the mask, its next position."""

    prompt: int
    row: int
    depth: int
    tokens: list[int] = field(default_factory=list)


class _Layer(CacheLayerMixin):
    """One layer's keys and values in a buffer: what of the start is kept, then the columns."""

    is_croppable = False

    def __init__(self, shared, room: _Room):
        super().__init__()
        self.window, self.is_sliding, self.room = shared.window, shared.is_sliding, room
        self.kept = 0 if shared.keys is None else shared.keys.shape[-2]
        self.shared = shared

    def lazy_initialization(self, key_states, value_states) -> None:
        size = self.kept + self.room.columns
        self.keys = key_states.new_empty(*key_states.shape[:2], size, key_states.shape[-1])
        self.values = value_states.new_empty(*value_states.shape[:2], size, value_states.shape[-1])
        if self.kept:
            self.keys[..., : self.kept, :] = self.shared.keys
            self.values[..., : self.kept, :] = self.shared.values
        self.is_initialized, self.shared = True, None

    def update(self, key_states, value_states, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        begin = self.kept + self.room.used
        end = begin + key_states.shape[-2]
        self.keys[..., begin:end, :] = key_states
        self.values[..., begin:end, :] = value_states
        if not self.room.apart:
            return self.keys[..., :end, :], self.values[..., :end, :]
        if not self.kept:
            return key_states, value_states
        start = self.keys[..., : self.kept, :], self.values[..., : self.kept, :]
        return torch.cat([start[0], key_states], -2), torch.cat([start[1], value_states], -2)

    def keep(self, columns: torch.Tensor) -> None:
        """Moves these columns to the front."""
        if self.is_initialized:
            for buffer in (self.keys, self.values):
                moved = buffer[..., self.kept + columns, :]
                buffer[..., self.kept : self.kept + len(columns), :] = moved

    def get_seq_length(self) -> int:
        return self.kept + self.room.used

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return self.kept + self.room.columns


class _Room(Cache):
    """Keys and values of a start and of `columns` tokens after it, `used` of which are taken.

    Attributes:
        depth: (columns,) position of each token in its own sequence.
        visible: (rows, columns) what each open prompt sees.
        apart: whether what is read sees none of the columns that are taken.
    """

    def __init__(self, start: SharedStart, rows: int, columns: int, device: torch.device):
        self.columns, self.used, self.length = columns, 0, start.length
        self.apart = False
        self.depth = torch.zeros(columns, dtype=torch.long, device=device)
        self.visible = torch.zeros(rows, columns, dtype=torch.bool, device=device)
        super().__init__(layers=[_Layer(layer, self) for layer in start.layers])

    def mask(self, model, depth: torch.Tensor, own: torch.Tensor, among: torch.Tensor):
        """Who sees whom in a pass: (1, 1, N, kept + used + N), by kind of layer.

        Args:
            model: its attention decides the form.
            depth: (N,) positions of the tokens that are read.
            own: (N, used) what of the columns each of them sees; (N, 0) where that is nothing.
            among: (N, N) what they see of each other.
        """
        positions = torch.cat([self.depth[: own.shape[1]], depth])
        made = {}
        for layer in self.layers:
            kind = "sliding_attention" if layer.is_sliding else "full_attention"
            if kind in made:
                continue
            before = torch.arange(self.length - layer.kept, self.length, device=depth.device)
            always = own.new_ones(len(depth), layer.kept)
            visible = torch.cat([always, own, among], dim=1)
            if layer.is_sliding:
                distance = depth[:, None] - torch.cat([before, positions])[None, :]
                visible &= distance < layer.window
            made[kind] = tree_attention.as_mask(model, visible[None, None])
        return made if len(made) > 1 else next(iter(made.values()))

    def compact(self, open_rows: list[int]) -> None:
        """Gives up the columns that no open prompt sees."""
        rows = torch.tensor(open_rows, dtype=torch.long, device=self.visible.device)
        columns = self.visible[rows, : self.used].any(0).nonzero()[:, 0]
        for layer in self.layers:
            layer.keep(columns)
        self.depth[: len(columns)] = self.depth[columns]
        self.visible[:, : len(columns)] = self.visible[:, columns]
        self.visible[:, len(columns) :] = False
        self.used = len(columns)


@torch.no_grad()
def generate(
    model,
    prompts: Sequence[np.ndarray],
    limit: int,
    is_done: Callable[[list[int]], bool],
    budget: int,
    rows: int,
    read: Callable[[int], None],
    choose: Choose = likeliest,
) -> Iterator[tuple[int, list[int]]]:
    """Continues prompts.

    Args:
        model: a causal language model in eval mode that `tree_attention.can_share`.
        prompts: tokens of each, all different, none empty.
        limit: new tokens of each, at most.
        is_done: whether a continuation has come to its end.
        budget: tokens of a pass, and of keys and values beyond a common start. Answers that need
            more get it, to as many prompts at once as would fill a pass if they shared nothing.
        rows: prompts continued at once, at most.
        read: told of the tokens of each pass.
        choose: says how prompts go on; greedily by default.

    Yields:
        (number of the prompt, its continuation), in the order in which they end.
    """
    needed = [len(prompt) - 1 for prompt in prompts]
    row = min(budget, WHOLE)
    tree = prefix_tree.gather(prefix_tree.grow(prompts, needed), row, budget, limit)

    def walk(group, start):
        for longer in group.groups:
            tokens = prompts[longer.sequence][group.length : longer.length]
            read(len(tokens))
            yield from walk(longer, tree_attention.extend(model, start, tokens, budget))
        if group.branches:
            session = _Session(
                model, group, start, prompts, needed, limit, is_done, budget, rows, read, choose
            )
            # Its room takes the start over, layer by layer.
            del start
            yield from session.run()

    yield from walk(tree, SharedStart(tree_attention.windows_of(model)))


class _Session:
    """The continuation of all prompts of a group."""

    def __init__(
        self, model, group, start, prompts, needed, limit, is_done, budget, rows, read, choose
    ):  # fmt: skip
        self.model, self.group, self.prompts, self.needed = model, group, prompts, needed
        self.limit, self.is_done, self.budget, self.read = limit, is_done, budget, read
        self.choose = choose
        order = sorted(group.branches, key=lambda branch: (-self._size(branch), branch.sequence))
        self.waiting = deque(order)
        leaves = [branch.leaves for branch in order]
        most = [self._size(branch) + branch.leaves * limit for branch in order]
        # Room for the largest branch at least, for as many prompts as would fit into the budget if
        # they shared nothing, whatever their answers take, and no more than all of them need.
        nodes = prefix_tree.walk(group.branches)
        abreast = budget // max(len(prompts[node.sequence]) for node in nodes if node.ends)
        of_one = max(-(-size // count) for size, count in zip(most, leaves, strict=True))
        self.rows = min(max(rows, *leaves), sum(leaves))
        columns = min(max(budget, abreast * of_one, *most), sum(most))
        self.room = _Room(start, self.rows, columns, model.device)
        self.open: list[_Open] = []
        self.free = list(range(self.rows))

    def _size(self, branch: prefix_tree.Node) -> int:
        return prefix_tree.weight(branch, self.group.length)

    def run(self) -> Iterator[tuple[int, list[int]]]:
        """See `generate`."""
        while self.waiting or self.open:
            if REFILL * len(self.free) >= self.rows:
                while opened := self._admit():
                    yield from self._close(opened)
            if self.open:
                yield from self._close(self._step())

    def _admit(self) -> list[tuple[_Open, int]]:
        """Reads as many new prompts as there is room for; gives each its first token."""
        taken = self._fitting()
        if not taken and self.waiting and self.room.used:
            self.room.compact([one.row for one in self.open])
            taken = self._fitting()
        if not taken:
            return []
        layout = prefix_tree.lay_out([taken], self.group.length, self.prompts, self.needed)
        device, used, width = self.model.device, self.room.used, layout.ids.shape[1]
        self.read(width)
        column = torch.arange(width, device=device)
        until = torch.from_numpy(layout.until[0]).to(device)
        among = (column <= column[:, None]) & (column[:, None] < until)
        depth = torch.from_numpy(layout.depth[0]).to(device)
        nothing = among.new_zeros(width, 0)
        ids = torch.from_numpy(layout.ids[0]).to(device)
        wanted = torch.from_numpy(layout.wanted).to(device)
        logits = self._pass(ids, depth, nothing, among, wanted)
        ranks = layout.wanted.ravel().cumsum() - 1
        last_of = {number: int(path[-1]) for number, path in layout.paths.items()}
        rows = torch.tensor([int(ranks[last]) for last in last_of.values()], device=device)
        first = self.choose(list(last_of), [0] * len(last_of), logits[rows])
        opened = []
        for (number, last), token in zip(last_of.items(), first, strict=True):
            row = self.free.pop()
            self.room.visible[row] = False
            self.room.visible[row, used : used + width] = among[last]
            one = _Open(number, row, len(self.prompts[number]))
            opened.append((one, token))
        self.open += [one for one, _ in opened]
        return opened

    def _fitting(self) -> list[prefix_tree.Node]:
        """Takes the waiting branches that there is room for, with all that they may grow to."""
        promised = sum(self.limit - len(one.tokens) for one in self.open)
        left, free = self.room.columns - self.room.used - promised, len(self.free)
        taken, tokens, most = [], 0, min(self.budget, ADMITTED)
        while self.waiting:
            branch = self.waiting[0]
            size = self._size(branch)
            left, free = left - size - branch.leaves * self.limit, free - branch.leaves
            tokens += size
            if left < 0 or free < 0 or (taken and tokens > most):
                break
            taken.append(branch)
            self.waiting.popleft()
        return taken

    def _step(self) -> list[tuple[_Open, int]]:
        """Reads the last token of every open prompt; gives each its next one."""
        device, used = self.model.device, self.room.used
        rows = torch.tensor([one.row for one in self.open], device=device)
        ids = torch.tensor([one.tokens[-1] for one in self.open], device=device)
        depth = torch.tensor([one.depth for one in self.open], device=device)
        among = torch.eye(len(rows), dtype=torch.bool, device=device)
        self.read(len(rows))
        logits = self._pass(ids, depth, self.room.visible[rows, :used], among, 0)
        self.room.visible[rows, used : used + len(rows)] = among
        for one in self.open:
            one.depth += 1
        numbers, steps = zip(*((one.prompt, len(one.tokens)) for one in self.open), strict=True)
        return list(zip(self.open, self.choose(list(numbers), list(steps), logits), strict=True))

    def _pass(self, ids, depth, own, among, wanted) -> torch.Tensor:
        self.room.apart = not own.shape[1]
        mask = self.room.mask(self.model, depth, own, among)
        logits = self.model(
            input_ids=ids[None],
            position_ids=depth[None],
            attention_mask=mask,
            past_key_values=self.room,
            use_cache=True,
            logits_to_keep=wanted,
        ).logits
        self.room.depth[self.room.used : self.room.used + len(ids)] = depth
        self.room.used += len(ids)
        return logits.reshape(-1, logits.shape[-1]).float()

    def _close(self, found: list[tuple[_Open, int]]) -> Iterator[tuple[int, list[int]]]:
        """Notes new tokens; gives what has come to its end."""
        ended = set()
        for one, token in found:
            one.tokens.append(token)
            if len(one.tokens) >= self.limit or self.is_done(one.tokens):
                ended.add(one.row)
                yield one.prompt, one.tokens
        self.free += ended
        self.open = [one for one in self.open if one.row not in ended]
