"""The tree of what sequences share: every token laid out once, seen by its own descendants."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sight_beyond_text.evaluation import prefix_tree

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=60)


def arrays(lists):
    return [np.array(tokens) for tokens in lists]


def laid_out(lists, needed, row, budget, most_scored=10**6):
    """Every pass with the start that comes before it."""
    sequences = arrays(lists)

    def walk(group, start):
        start = [*start, *sequences[group.sequence][len(start) : group.length].tolist()]
        assert len(start) == group.length
        for rows in prefix_tree.batches(group, row, budget, most_scored):
            yield start, prefix_tree.lay_out(rows, group.length, sequences, needed)
        for longer in group.groups:
            assert longer.length >= group.length + prefix_tree.SHORTEST_START
            yield from walk(longer, start)

    yield from walk(prefix_tree.gather(prefix_tree.grow(sequences, needed), row, budget), [])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_sequence_can_be_read_back_from_what_its_end_sees(data):
    lists = data.draw(st.lists(TOKENS, min_size=1, max_size=25, unique_by=tuple))
    # Long common starts, as few-shot examples are.
    common = data.draw(st.lists(st.integers(0, 2), max_size=80))
    lists += [[*common, *tokens] for tokens in lists]
    lists = [list(tokens) for tokens in dict.fromkeys(map(tuple, lists))]
    needed = [data.draw(st.integers(0, len(tokens) - 1)) for tokens in lists]
    row, budget = data.draw(st.sampled_from([(8, 8), (8, 64), (40, 200), (1000, 4000)]))
    found = {}
    for start, layout in laid_out(lists, needed, row, budget):
        width = layout.ids.shape[1]
        for number, path in layout.paths.items():
            assert number not in found
            at, column = divmod(int(path[-1]), width)
            seen = [c for c in range(column + 1) if column < layout.until[at, c]]
            assert layout.depth[at, seen].tolist() == list(range(len(start), len(lists[number])))
            found[number] = [*start, *layout.ids[at, seen].tolist()]
            # Logits are asked for from the first position needed to the last one.
            assert layout.depth.ravel()[path].tolist() == list(
                range(needed[number], len(lists[number]))
            )
            assert layout.wanted.ravel()[path].all()
        # Everything sees itself, padding too.
        assert (layout.until > np.arange(width)).all()
    assert found == dict(enumerate(lists))


def test_a_common_start_is_read_once():
    common = list(range(100))
    lists = [[*common, 200 + number, *range(20)] for number in range(50)]
    passes = list(laid_out(lists, [len(tokens) - 1 for tokens in lists], row=64, budget=256))
    assert {tuple(start) for start, _ in passes} == {tuple(common)}
    read = sum(layout.ids.size for _, layout in passes)
    assert read < 1.3 * 50 * 21


def test_groups_may_stand_in_groups():
    one, two = list(range(30)), list(range(100, 140))
    lists = [[*one, *two, number, 7] for number in range(200, 300)]
    lists += [[*one, number, 7] for number in range(300, 400)]
    starts = {
        len(start)
        for start, _ in laid_out(lists, [len(tokens) - 1 for tokens in lists], row=32, budget=64)
    }
    assert starts == {30, 70}


def test_a_start_ends_before_the_first_position_that_is_needed():
    lists = [[*range(50), number] for number in range(50, 90)]
    (start, _), *_ = laid_out(lists, [40] * len(lists), row=8, budget=64)
    assert start == list(range(40))


@pytest.mark.parametrize("budget", [64, 128, 1024])
def test_passes_keep_to_the_budget(budget):
    rng = np.random.default_rng(0)
    lists = [rng.integers(0, 9, rng.integers(1, 60)).tolist() for _ in range(80)]
    lists = [list(tokens) for tokens in dict.fromkeys(map(tuple, lists))]
    for _, layout in laid_out(lists, [len(tokens) - 1 for tokens in lists], 32, budget):
        assert layout.ids.size <= budget


def test_passes_keep_to_the_number_of_logits():
    lists = [[number, *range(10)] for number in range(40)]
    for _, layout in laid_out(lists, [1] * 40, row=16, budget=4096, most_scored=30):
        assert layout.wanted.sum() <= 30


def test_a_sequence_that_another_begins_with():
    lists = [[1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 9]]
    ((_, layout),) = laid_out(lists, [2, 3, 2], row=16, budget=64)
    assert layout.ids.size == 6
    assert sorted(layout.paths) == [0, 1, 2]
