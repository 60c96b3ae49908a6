"""Which samples a step learns from, and how a step is split."""

from hypothesis import given
from hypothesis import strategies as st

from sight_beyond_text.training.steps import plan_steps, split_step

LENGTHS = st.lists(st.integers(1, 400), min_size=1, max_size=80)


@given(LENGTHS, st.integers(1, 9), st.sampled_from((0.5, 1, 2, 2.5)), st.booleans())
def test_every_epoch_sees_every_sample_once(lengths, size, epochs, by_length):
    steps = plan_steps(lengths, size, epochs, seed=3, by_length=by_length)
    an_epoch = -(-len(lengths) // size)
    assert len(steps) == -(-an_epoch * epochs // 1)
    for start in range(0, int(epochs) * an_epoch, an_epoch):
        seen = sorted(index for step in steps[start : start + an_epoch] for index in step)
        assert seen == list(range(len(lengths)))
    assert all(len(step) <= size for step in steps)


def test_the_order_follows_from_the_seed_and_differs_by_epoch():
    lengths = [10] * 40
    steps = plan_steps(lengths, 4, 2, seed=0)
    assert steps == plan_steps(lengths, 4, 2, seed=0)
    assert steps != plan_steps(lengths, 4, 2, seed=1)
    assert steps[:10] != steps[10:]


def test_steps_by_length_waste_less():
    lengths = [(7919 * i) % 500 + 1 for i in range(400)]

    def padded(by_length: bool) -> int:
        steps = plan_steps(lengths, 8, 1, seed=0, by_length=by_length)
        return sum(len(step) * max(lengths[i] for i in step) for step in steps)

    assert padded(True) < 0.6 * padded(False)


@given(LENGTHS, st.none() | st.integers(1, 900), st.integers(1, 5))
def test_a_split_keeps_every_sample_and_the_budget(lengths, budget, processes):
    step = list(range(len(lengths)))
    shares = split_step(step, lengths, budget, processes)
    assert len(shares) == processes
    assert len({len(share) for share in shares}) == 1, "processes must pass equally often"
    assert sorted(i for share in shares for chosen in share for i in chosen) == step
    for share in shares:
        for chosen in share:
            widest = max((lengths[i] for i in chosen), default=0)
            assert budget is None or len(chosen) <= 1 or widest * len(chosen) <= budget
        lone = [max(lengths[i] for i in chosen) for chosen in share if chosen]
        assert lone == sorted(lone, reverse=True), "the longest comes first"


def test_without_a_budget_a_step_is_one_pass():
    assert split_step([2, 0, 1], [5, 9, 7], None) == [[[1, 2, 0]]]


def test_a_process_without_samples_passes_all_the_same():
    assert split_step([0], [5], 100, processes=3) == [[[0]], [[]], [[]]]
