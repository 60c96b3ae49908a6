"""The comparison of trainers measures what it says, and its sides learn the same."""

import json
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode


@pytest.fixture(scope="module")
def benchmarks(repository):
    """The folder of benchmarks, importable."""
    folder = str(repository / "benchmarks")
    sys.path.insert(0, folder)
    yield repository / "benchmarks"
    sys.path.remove(folder)


@pytest.fixture(scope="module")
def prepared(benchmarks, tmp_path_factory):
    """The job of a tiny comparison whose weights and features are written."""
    import training_contender

    made = {
        "shape": "tiny",
        "steps": 3,
        "batch": 8,
        "length": None,
        "token_budget": 512,
        "checkpointing": "auto",
        "optimizer": "adamw",
        "threads": torch.get_num_threads(),
        "folder": str(tmp_path_factory.mktemp("comparison")),
    }
    assert training_contender.prepare(made)["features"]["images"] == 24
    return made


@pytest.mark.slow
def test_the_command_compares_and_reports(benchmarks, tmp_path):
    out = tmp_path / "made" / "training.json"
    done = subprocess.run(
        [sys.executable, str(benchmarks / "training.py"), "--shape", "tiny", "--tuning", "full"]
        + ["--contenders", "published", "ours", "--steps", "3", "--warm-up", "1", "--rounds", "1"]
        + ["--threads", "1", "--out", str(out), "--work", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert report["hardware"]["threads"] == 1 and report["versions"]["torch"] == torch.__version__
    (comparison,) = report["comparisons"]
    published, ours = (comparison["sides"][name] for name in ("published", "ours"))
    assert published["times_published"] == 1 and ours["times_plain"] is None
    assert ours["times_published"] == ours["tokens_a_second"] / published["tokens_a_second"]
    assert 0 <= ours["padding"] < published["padding"] < 0.5
    assert published["learned_tokens_a_second"] < published["tokens_a_second"]
    assert published["checkpointing"] and not ours["checkpointing"]
    assert published["peak_mib"] > published["start_mib"] > 100
    (difference,) = comparison["loss_differences"]
    assert difference["sides"] == ["published", "ours"]
    assert 0 < difference["largest"] < difference["tolerance"]
    for told in ("| published |", "| ours |", "losses of published and ours"):
        assert told in done.stdout
        assert told in out.with_suffix(".md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["made"], "weights are gone"


@pytest.mark.parametrize("tuning", ("full", "lora", "qlora"))
def test_sides_learn_the_same_from_the_same_samples(prepared, tuning):
    import training_contender

    sides = {
        name: training_contender.contend({**prepared, "tuning": tuning, "contender": name})
        for name in ("published", "plain", "ours")
    }
    for key in ("tokens", "learned", "flops", "parameters", "trainable"):
        assert sides["published"][key] == sides["plain"][key] == sides["ours"][key], key
    for side in sides.values():
        assert len(side["seconds"]) == len(side["losses"]) == 3
        assert all(p >= t for p, t in zip(side["positions"], side["tokens"], strict=True))
    losses = {name: side["losses"] for name, side in sides.items()}
    assert losses["plain"] == pytest.approx(losses["ours"], abs=1e-4)
    assert losses["published"] == pytest.approx(losses["ours"], abs=1e-2)
    assert losses["published"] != pytest.approx(losses["ours"], abs=1e-6), "averaged otherwise"
    assert losses["ours"][-1] < losses["ours"][0] - 0.005, "there is something to learn"


def test_grouped_steps_hold_the_same_samples_with_less_padding(prepared):
    import training_contender

    one, other = (
        training_contender.contend(
            {**prepared, "tuning": "lora", "contender": name, "token_budget": 10**6}
        )
        for name in ("ours", "ours-grouped")
    )
    assert sum(one["tokens"]) == sum(other["tokens"]) and one["tokens"] != other["tokens"]
    assert sum(other["positions"]) < sum(one["positions"])


def test_a_length_given_is_every_samples(prepared):
    import training_contender

    changes = {"tuning": "qlora", "contender": "ours", "length": 200, "checkpointing": "on"}
    done = training_contender.contend({**prepared, **changes, "batch": 1})
    assert done["tokens"] == done["positions"] == [200] * 3
    assert done["checkpointing"]


@pytest.mark.parametrize("tuning", ("full", "lora"))
def test_counted_operations_are_those_of_a_pass_without_padding(prepared, tuning):
    import training_contender
    from training_shapes import SHAPES, learning_flops

    from sight_beyond_text.data.samples import IGNORED, Collator
    from sight_beyond_text.training.learner import Steps
    from sight_beyond_text.training.loss import TokenLoss

    job, shape = {**prepared, "tuning": tuning, "contender": "ours"}, SHAPES["tiny"]
    model = training_contender._model(job)
    samples = training_contender._samples(job, model.config)
    (batch,) = Steps(samples, [[0]], Collator(0), None)[0]["passes"]
    with FlopCounterMode(display=False) as counter:
        TokenLoss(model).train()(**batch).backward()
    matrices = sum(
        count
        for operation, count in counter.get_flop_counts()["Global"].items()
        if str(operation) in ("aten.mm", "aten.addmm", "aten.bmm")
    )
    length, width = batch["input_ids"].shape[1], shape["llm"]["hidden_size"]
    learned = int((batch["labels"][:, 1:] != IGNORED).sum())
    expected = learning_flops(shape, tuning, [length], learned)
    expected -= 6 * width * length**2 * shape["llm"]["num_hidden_layers"]
    # Beside these: the projector (forward, and its weights' gradient) and the positions' angles.
    projector = 4 * batch["image_features"].shape[1] * shape["tower"]["hidden_size"] * width
    assert matrices - projector == pytest.approx(expected, rel=0.01)


def test_peaks_are_found_by_name(benchmarks):
    from training_shapes import peak_flops

    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("NVIDIA L40S") == 362e12
    assert peak_flops("another") is None


@pytest.mark.parity
def test_the_table_of_lengths_is_the_published_conversations(benchmarks, shared_data):
    import llava_lengths

    assert json.loads(llava_lengths.TABLE.read_text())["conversations"] == (
        llava_lengths.measured(shared_data)
    )
