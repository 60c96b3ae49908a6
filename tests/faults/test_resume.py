"""A killed run ends with the weights of an uninterrupted one."""

import json
import random

import pytest
from killable import at_step, run, while_saving
from tiny_runs import make_world, run_spec

from sight_beyond_text.models.checkpoints import completed, verify

RATES = {"align": 3e-2, "full": 3e-3, "lora": 1e-2, "qlora": 1e-2, "frozen": 3e-2}
STEPS = 15 * 4
LORA = {"rank": 4, "alpha": 8, "dropout": 0.1, "targets": ["q_proj", "v_proj", "down_proj"]}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def spec_in(world, folder, mode: str, epochs: int = 15) -> dict:
    stage = {"stage": "align", "template": "plain"} if mode == "align" else {}
    given = run_spec(
        world,
        mode,
        learning_rate=RATES[mode],
        epochs=epochs,
        batch_size=3,
        token_budget=200,
        save_steps=2,
        checkpoint=str(folder / "checkpoint"),
        **stage,
    )
    # Dropout draws random numbers, so their state has to come back too.
    return {**given, "lora": LORA if given["lora"] else None}


def outcome(folder) -> tuple:
    record = json.loads((folder / "train.json").read_text())
    return record["files"], record["curve"]


def resumed(folder) -> list[int]:
    return json.loads((folder / "train.json").read_text())["resumed_after"]


LATE = (pytest.mark.slow, pytest.mark.campaign)


@pytest.mark.parametrize(
    "mode",
    [
        "qlora",
        *(pytest.param(mode, marks=LATE) for mode in ("align", "full", "lora", "frozen")),
    ],
)
def test_killed_at_random_moments(world, tmp_path, mode):
    whole = spec_in(world, tmp_path / "whole", mode)
    assert run(whole, tmp_path / "whole" / "train.json") == 0
    given = spec_in(world, tmp_path / "killed", mode)
    points = tmp_path / "killed" / "checkpoint" / "resume"
    for step in sorted(random.Random(mode).sample(range(2, STEPS - 10), 4)):
        assert run(given, tmp_path / "killed" / "train.json", at_step(points, step)) == -9
    assert run(given, tmp_path / "killed" / "train.json") == 0
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    assert len(resumed(tmp_path / "killed")) == 4
    assert not points.exists()


@pytest.mark.parametrize("mode", ("full", pytest.param("qlora", marks=LATE)))
def test_killed_while_a_resume_point_is_written(world, tmp_path, mode):
    whole = spec_in(world, tmp_path / "whole", mode)
    assert run(whole, tmp_path / "whole" / "train.json") == 0
    given = spec_in(world, tmp_path / "killed", mode)
    points = tmp_path / "killed" / "checkpoint" / "resume"
    half_written = 0
    for seed in range(4):
        run(given, tmp_path / "killed" / "train.json", while_saving(points, seed))
        half_written += any(
            not (point / "resume.json").exists() for point in points.glob("checkpoint-*")
        )
    assert half_written, "no resume point was left half-written"
    assert run(given, tmp_path / "killed" / "train.json") == 0
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    assert resumed(tmp_path / "killed")


def test_killed_during_the_final_save_only_the_save_is_lost(world, tmp_path):
    whole = spec_in(world, tmp_path / "whole", "lora", epochs=2)
    assert run(whole, tmp_path / "whole" / "train.json") == 0
    given = spec_in(world, tmp_path / "killed", "lora", epochs=2)
    for before in ("save_projector", "hashes", "write_json"):
        assert run(given, tmp_path / "killed" / "train.json", before=before) == -9
        assert not (tmp_path / "killed" / "train.json").exists()
    assert run(given, tmp_path / "killed" / "train.json") == 0
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    assert resumed(tmp_path / "killed") == [8]
    assert not (tmp_path / "killed" / "checkpoint" / "resume").exists()


def test_resume_points_that_outlive_a_finished_training_harm_nothing(world, tmp_path):
    given = spec_in(world, tmp_path, "frozen", epochs=1)
    assert run(given, tmp_path / "train.json") == 0
    record = completed(given["checkpoint"], given["recipe"])
    # As after a kill between the record and the removal of the points.
    left = tmp_path / "checkpoint" / "resume" / "checkpoint-4" / "optimizer.pt"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"state")
    assert completed(given["checkpoint"], given["recipe"]) == record
    assert verify(given["checkpoint"]) == record
    assert run(given, tmp_path / "train.json") == 0
    assert not left.parent.parent.exists()
    assert json.loads((tmp_path / "train.json").read_text()) == record


def test_a_damaged_resume_point_is_not_taken_up(world, tmp_path):
    whole = spec_in(world, tmp_path / "whole", "lora")
    assert run(whole, tmp_path / "whole" / "train.json") == 0
    given = spec_in(world, tmp_path / "killed", "lora")
    points = tmp_path / "killed" / "checkpoint" / "resume"
    marked = run(
        given,
        tmp_path / "killed" / "train.json",
        lambda _: any(points.glob("checkpoint-*/resume.json")),
    )
    assert marked == -9
    for path in points.glob("checkpoint-*/optimizer.pt"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    assert run(given, tmp_path / "killed" / "train.json") == 0
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    assert resumed(tmp_path / "killed") == []
