"""What token sequences have in common, and in which passes a model reads each of it only once.

Sequences that begin alike form a tree. A long start that many of them share becomes a `Group`,
whose keys and values are computed first and then serve all its branches; what is left of the
tree is laid out in rows, several branches a row, in which a token sees its own ancestors alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

SHORTEST_START = 16
LEAST_SAVED = 256
"""Shorter shared starts, and those that save fewer tokens, are read again: a pass of their own
would cost more, and passes of what comes after them would be fewer tokens each."""


@dataclass(slots=True)
class Node:
    """A stretch of tokens that the same sequences share.

    Attributes:
        sequence: one of these sequences, by number.
        start, end: where the stretch lies in it.
        children: what comes next, in several ways.
        ends: whether `sequence` ends here.
        below: tokens of this stretch and all that come after it.
        leaves: sequences that end in these.
        scored: positions of these whose logits are needed, at most.
        free: tokens from the very beginning on whose logits nobody needs.
    """

    sequence: int
    start: int
    end: int
    children: list[Node] = field(default_factory=list)
    ends: bool = False
    below: int = 0
    leaves: int = 0
    scored: int = 0
    free: int = 0


@dataclass(slots=True)
class Group:
    """Branches that share a start.

    Attributes:
        sequence: one that begins with the start.
        length: of the start in tokens; 0 for none.
        branches: trees to be read after the start; a branch's first stretch may begin before it.
        groups: groups whose own start is longer than this one's and begins with it.
    """

    sequence: int
    length: int
    branches: list[Node] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)


@dataclass(slots=True)
class Layout:
    """Rows of tokens for one pass after a shared start; B rows of width W.

    Attributes:
        ids: (B, W) tokens; 0 where nothing stands.
        depth: (B, W) each token's position in its sequence.
        until: (B, W) a token is seen by those between itself and here in its row (exclusive).
        wanted: (B, W) whether logits are needed there.
        paths: by sequence that ends in these rows: the flat indices (row * W + column) of its
            positions whose logits are needed, in order.
    """

    ids: np.ndarray
    depth: np.ndarray
    until: np.ndarray
    wanted: np.ndarray
    paths: dict[int, np.ndarray]


def grow(sequences: Sequence[np.ndarray], needed: Sequence[int]) -> list[Node]:
    """Makes the tree of sequences, all different.

    Args:
        sequences: tokens, int64; none is empty.
        needed: of each sequence, the first position whose logits are needed.

    Returns:
        The stretches at the beginning; sequences under different ones share nothing.
    """
    # Big-endian bytes are in the order of the tokens, and Python compares them fast.
    order = sorted(range(len(sequences)), key=lambda n: sequences[n].astype(">u4").tobytes())
    root = Node(-1, 0, 0)
    path = [root]
    previous = None
    for number in order:
        tokens = sequences[number]
        common = _common(previous, tokens) if previous is not None else 0
        below = None
        while path[-1].end > common:
            below = path.pop()
        if path[-1].end < common:
            split = Node(below.sequence, path[-1].end, common, [below])
            below.start = common
            path[-1].children[-1] = split
            path.append(split)
        leaf = Node(number, common, len(tokens), ends=True)
        path[-1].children.append(leaf)
        path.append(leaf)
        previous = tokens
    for node in reversed(list(walk(root.children))):
        own = len(sequences[node.sequence]) - needed[node.sequence] if node.ends else 0
        node.below = node.end - node.start + sum(child.below for child in node.children)
        node.leaves = node.ends + sum(child.leaves for child in node.children)
        node.scored = own + sum(child.scored for child in node.children)
        limits = [child.free for child in node.children]
        node.free = min(limits + [needed[node.sequence]] * node.ends)
    return root.children


def _common(one: np.ndarray, two: np.ndarray) -> int:
    """How many tokens two sequences begin with alike."""
    size = min(len(one), len(two))
    differ = one[:size] != two[:size]
    return int(differ.argmax()) if differ.any() else size


def walk(nodes: list[Node]) -> Iterator[Node]:
    """Every node, parents before children."""
    waiting = list(reversed(nodes))
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(reversed(node.children))


def gather(nodes: list[Node], row: int, budget: int, after: int = 0) -> Group:
    """Divides a tree into groups with a shared start, and branches short enough for a row.

    Args:
        nodes: as `grow` gives them; changed in place.
        row: tokens of a branch, at most, where it can be divided.
        budget: tokens of a single sequence read at once, at most.
        after: tokens that each sequence takes beyond its own.
    """
    return _gather(Group(0, 0), nodes, row, budget, after)


def _gather(group: Group, nodes: list[Node], row: int, budget: int, after: int) -> Group:
    length = group.length
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        size = weight(node, length) + node.leaves * after
        if size <= row or (not node.children and size <= budget):
            group.branches.append(node)
            continue
        shared = min(node.end, node.free)
        # What comes after it takes so many rows, and is divided into so many branches, at least.
        saved = (shared - length) * max(size / row, len(node.children) - 1)
        if shared - length >= SHORTEST_START and saved >= LEAST_SAVED:
            rest = node.children
            if shared < node.end:
                tail = node.end - shared
                below = tail + sum(child.below for child in node.children)
                rest = [Node(node.sequence, shared, node.end, node.children, node.ends, below)]
                rest[0].leaves, rest[0].scored, rest[0].free = node.leaves, node.scored, node.free
            longer = Group(node.sequence, shared)
            group.groups.append(_gather(longer, rest, row, budget, after))
        elif node.children:
            if node.ends:
                own = node.scored - sum(child.scored for child in node.children)
                leaf = Node(node.sequence, node.start, node.end, [], True, node.end - node.start, 1)
                leaf.scored, leaf.free = own, node.free
                group.branches.append(leaf)
            waiting.extend(node.children)
        else:
            group.branches.append(node)
    return group


def weight(branch: Node, length: int) -> int:
    """Tokens that a branch takes after a start of `length` tokens."""
    return branch.start - length + branch.below


def batches(group: Group, row: int, budget: int, most_scored: int) -> Iterator[list[list[Node]]]:
    """Fills passes with a group's branches.

    Args:
        group: its branches alone; not those of the groups in it.
        row: tokens of a row that several branches share, about.
        budget: tokens of a pass, padding included; a single longer branch is a pass of its own.
        most_scored: positions of a pass whose logits are needed, at most, likewise.

    Yields:
        Rows of branches, each row as long as the first branch of the first one, or as `row`.
    """
    # A stable order, so that the same requests in any order make the same passes.
    waiting = sorted(
        group.branches, key=lambda branch: (-weight(branch, group.length), branch.sequence)
    )
    # Without a shared start, a row of one branch wastes the least attention.
    shortest = min(group.length, row)
    while waiting:
        width = max(weight(waiting[0], group.length), shortest)
        rows: list[list[Node]] = [[]]
        used, scored, taken = 0, 0, 0
        for branch in waiting:
            size = weight(branch, group.length)
            if rows[-1] and used + size > width:
                if (len(rows) + 1) * width > budget:
                    break
                rows.append([])
                used = 0
            if taken and scored + branch.scored > most_scored:
                break
            rows[-1].append(branch)
            used += size
            scored += branch.scored
            taken += 1
        waiting = waiting[taken:]
        yield [members for members in rows if members]


def lay_out(
    rows: list[list[Node]], length: int, sequences: Sequence[np.ndarray], needed: Sequence[int]
) -> Layout:
    """Puts the tokens of branches into rows, parents before children.

    Args:
        rows: branches by row.
        length: of the start that comes before all of them.
        sequences, needed: as for `grow`.
    """
    width = max(sum(weight(branch, length) for branch in row) for row in rows)
    shape = (len(rows), width)
    ids = np.zeros(shape, np.int64)
    depth = np.full(shape, length, np.int64)
    # What stands nowhere sees itself, as a row of a softmax needs something to see.
    until = np.tile(np.arange(1, width + 1), (len(rows), 1))
    wanted = np.zeros(shape, bool)
    paths: dict[int, np.ndarray] = {}
    columns = np.empty(max(map(len, sequences)), np.int64)
    for number, row in enumerate(rows):
        at = 0
        for branch in row:
            open_nodes: list[tuple[Node, int]] = []
            waiting = [branch]
            while waiting:
                node = waiting.pop()
                if node is None:
                    closed, begin = open_nodes.pop()
                    stretch = closed.end - (length if closed is branch else closed.start)
                    until[number, begin : begin + stretch] = at
                    continue
                start = length if node is branch else node.start
                stretch = slice(at, at + node.end - start)
                ids[number, stretch] = sequences[node.sequence][start : node.end]
                depth[number, stretch] = np.arange(start, node.end)
                columns[start : node.end] = np.arange(stretch.start, stretch.stop)
                open_nodes.append((node, at))
                at = stretch.stop
                if node.ends:
                    path = columns[needed[node.sequence] : node.end]
                    wanted[number, path] = True
                    paths[node.sequence] = number * width + path
                waiting.append(None)
                waiting.extend(reversed(node.children))
    return Layout(ids, depth, until, wanted, paths)
