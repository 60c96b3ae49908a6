"""Answers kept on disk: nothing is asked twice, nothing that is broken is believed."""

import json

import pytest

from sight_beyond_text.errors import UserError

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.api.model import LM  # noqa: E402

from sight_beyond_text.evaluation.answer_file import Answers  # noqa: E402
from sight_beyond_text.evaluation.remembered import RememberingLM  # noqa: E402


class Counting(LM):
    """Answers with the length of the texts, and notes what it was asked."""

    def __init__(self, fail_after=None):
        super().__init__()
        self.heard, self.fail_after = [], fail_after
        self.truncated = {("long", " a"): 7}

    def _each(self, kind, requests, answer):
        found = []
        for request in requests:
            if self.fail_after is not None and len(self.heard) == self.fail_after:
                raise KeyboardInterrupt
            self.heard.append(request.args)
            found.append(answer(request.args))
            self.cache_hook.add_partial(kind, request.args, found[-1])
        return found

    def loglikelihood(self, requests):
        return self._each("loglikelihood", requests, lambda a: (-0.1 * len(a[0] + a[1]), True))

    def loglikelihood_rolling(self, requests):
        return self._each("loglikelihood_rolling", requests, lambda a: -1.0 * len(a[0]))

    def generate_until(self, requests):
        return self._each("generate_until", requests, lambda a: f"{a[0]} \u2028 {len(self.heard)}")


def asked(kind, *arguments):
    return [Instance(kind, {}, one, 0) for one in arguments]


PAIRS = asked("loglikelihood", ("Q", " a"), ("Q", " b"), ("long", " a"), ("Q", " a"))
TEXTS = asked("generate_until", ("Q", {"until": ["x"]}), ("R", {"until": ["x"]}))


def remembering(path, model="one", others=(), **settings):
    inner = Counting(**settings)
    return RememberingLM(Answers(path, model, others), lambda: inner), inner


def closed(lm):
    lm.answers.close()
    return lm


def test_nothing_is_asked_twice(tmp_path):
    lm, inner = remembering(tmp_path / "a.jsonl")
    first = lm.loglikelihood(PAIRS), lm.generate_until(TEXTS)
    assert first[0][0] == first[0][3] == pytest.approx((-0.3, True))
    assert len(inner.heard) == lm.asked == 5
    closed(lm)
    again, unused = remembering(tmp_path / "a.jsonl")
    assert (again.loglikelihood(PAIRS), again.generate_until(TEXTS)) == first
    assert again.loaded is None and not unused.heard
    assert again.truncated == {("long", " a"): 7}
    more = asked("loglikelihood", ("Q", " a"), ("Q", " new"))
    again.loglikelihood(more)
    assert unused.heard == [("Q", " new")]


def test_an_interruption_loses_nothing_that_was_written(tmp_path):
    requests = asked("loglikelihood", *((f"Q{n}", " a") for n in range(100)))
    lm, _ = remembering(tmp_path / "a.jsonl", fail_after=90)
    with pytest.raises(KeyboardInterrupt):
        lm.loglikelihood(requests)
    # As after a kill: what wasn't flushed is gone, and a line is cut.
    content = (tmp_path / "a.jsonl").read_bytes()
    assert content.count(b"\n") > 60
    (tmp_path / "b.jsonl").write_bytes(content[:-5])
    lm, inner = remembering(tmp_path / "b.jsonl")
    found = lm.loglikelihood(requests)
    assert 10 <= len(inner.heard) <= 40
    assert [value for value, _ in found] == pytest.approx(
        [-0.1 * len(f"Q{n} a") for n in range(100)]
    )
    closed(lm)
    for line in (tmp_path / "b.jsonl").read_text().split("\n")[1:-1]:
        assert len(json.loads(line)) == 3


def test_another_model_begins_anew(tmp_path):
    lm, _ = remembering(tmp_path / "a.jsonl", "one")
    lm.loglikelihood(PAIRS)
    closed(lm)
    lm, inner = remembering(tmp_path / "a.jsonl", "two")
    lm.loglikelihood(PAIRS)
    assert len(inner.heard) == 3
    closed(lm)
    lm, inner = remembering(tmp_path / "a.jsonl", "two")
    lm.loglikelihood(PAIRS)
    assert not inner.heard


def test_other_files_of_the_same_model_are_believed(tmp_path):
    for name, model in (("a", "one"), ("b", "two")):
        lm, _ = remembering(tmp_path / f"{name}.jsonl", model)
        lm.loglikelihood(PAIRS if name == "b" else PAIRS[:1])
        closed(lm)
    others = sorted(tmp_path.glob("*.jsonl"))
    lm, inner = remembering(tmp_path / "c.jsonl", "one", others)
    lm.loglikelihood(PAIRS)
    assert inner.heard == [("Q", " b"), ("long", " a")]
    assert (tmp_path / "a.jsonl").read_text().count("\n") == 2


def test_random_answers_are_asked_each_time(tmp_path):
    settings = {"do_sample": True, "temperature": 0.7}
    requests = asked("generate_until", ("Q", settings), ("Q", settings))
    lm, inner = remembering(tmp_path / "a.jsonl")
    first = lm.generate_until(requests)
    assert first == ["Q \u2028 1", "Q \u2028 2"]
    assert lm.generate_until(requests) == ["Q \u2028 3", "Q \u2028 4"]
    assert len(inner.heard) == 4


def test_a_broken_line_is_told(tmp_path):
    lm, _ = remembering(tmp_path / "a.jsonl")
    lm.loglikelihood(PAIRS)
    closed(lm)
    lines = (tmp_path / "a.jsonl").read_text().split("\n")
    lines[2] = lines[2][:10]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"a\.jsonl:3: broken; remove the file"):
        remembering(tmp_path / "a.jsonl")


class LikeVllm(Counting):
    """Tells of a text's request with the settings that it really used, as lm-eval's vLLM does."""

    def generate_until(self, requests):
        found = []
        for request in requests:
            if self.fail_after is not None and len(self.heard) == self.fail_after:
                raise KeyboardInterrupt
            context, settings = request.args
            self.heard.append(request.args)
            found.append(f"{context}, {settings['until']}")
            used = {**settings, "until": [*settings["until"], "</s>"], "temperature": 0.0}
            self.cache_hook.add_partial("generate_until", (context, used), found[-1])
        return found


def like_vllm(path, **settings):
    inner = LikeVllm(**settings)
    inner.truncated[("Q",)] = 5
    return RememberingLM(Answers(path, "one"), lambda: inner), inner


def test_texts_are_remembered_where_a_model_tells_other_settings(tmp_path):
    lm, inner = like_vllm(tmp_path / "a.jsonl", fail_after=1)
    with pytest.raises(KeyboardInterrupt):
        lm.generate_until(TEXTS)
    closed(lm)
    lm, inner = like_vllm(tmp_path / "a.jsonl")
    first = lm.generate_until(TEXTS)
    assert [context for context, _ in inner.heard] == ["R"]
    # What was cut is counted, be the answer new or known.
    assert lm.truncated == {("Q",): 5}
    closed(lm)
    again, unused = like_vllm(tmp_path / "a.jsonl")
    assert again.generate_until(TEXTS) == first and not unused.heard
    assert again.truncated == {("Q",): 5}


def test_the_same_context_with_several_settings_keeps_its_answers_apart(tmp_path):
    requests = asked("generate_until", ("Q", {"until": ["x"]}), ("Q", {"until": ["y"]}))
    lm, _ = like_vllm(tmp_path / "a.jsonl")
    assert lm.generate_until(requests) == ["Q, ['x']", "Q, ['y']"]
    closed(lm)
    again, unused = like_vllm(tmp_path / "a.jsonl")
    assert again.generate_until(requests) == ["Q, ['x']", "Q, ['y']"] and not unused.heard


def test_slow_answers_are_written_before_many_have_come(tmp_path, monkeypatch):
    from sight_beyond_text.evaluation import remembered

    monkeypatch.setattr(remembered, "FLUSH_AFTER", 0.0)
    lm, _ = remembering(tmp_path / "a.jsonl", fail_after=2)
    with pytest.raises(KeyboardInterrupt):
        lm.loglikelihood(PAIRS)
    # As a killed process leaves it: nothing was closed.
    assert (tmp_path / "a.jsonl").read_text().count("\n") == 3
