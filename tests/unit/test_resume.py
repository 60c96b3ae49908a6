"""Which resume points are believed."""

import pytest
import torch
from torch import nn

from sight_beyond_text.errors import UserError
from sight_beyond_text.training import resume

RECIPE = {"mode": "lora", "seed": 0}


def point(folder, step: int, recipe=RECIPE):
    made = folder / f"checkpoint-{step}"
    resume.save_learned({"weight": torch.arange(4.0)}, made)
    (made / "optimizer.pt").write_bytes(b"state")
    resume.mark(made, recipe, [{"loss": 1.0}], [1], 2.0)
    return made


def test_the_newest_whole_point_is_taken_and_older_ones_go_when_it_has_proved_good(tmp_path):
    before = point(tmp_path, 2)
    newest = point(tmp_path, 10)
    found, record = resume.latest(tmp_path, RECIPE)
    assert found == newest
    assert (record["losses"], record["resumed"], record["seconds"]) == ([{"loss": 1.0}], [1], 2.0)
    assert resume.points(tmp_path) == [newest, before]
    resume.prove(newest)
    assert resume.points(tmp_path) == [newest]


def test_where_the_newest_point_goes_the_one_before_is_taken(tmp_path):
    before = point(tmp_path, 2)
    resume.remove(point(tmp_path, 10))
    assert resume.latest(tmp_path, RECIPE)[0] == before


def test_an_earlier_point_that_is_half_written_or_of_another_recipe_goes(tmp_path):
    resume.save_learned({"weight": torch.zeros(4)}, tmp_path / "checkpoint-2")
    point(tmp_path, 4, {**RECIPE, "seed": 1})
    newest = point(tmp_path, 10)
    assert resume.latest(tmp_path, RECIPE)[0] == newest
    assert resume.points(tmp_path) == [newest]


def test_a_point_without_its_record_is_removed_and_the_one_before_taken(tmp_path):
    whole = point(tmp_path, 2)
    half = tmp_path / "checkpoint-4"
    resume.save_learned({"weight": torch.zeros(4)}, half)
    assert resume.latest(tmp_path, RECIPE)[0] == whole
    assert not half.exists()


@pytest.mark.parametrize("damage", ("changed", "missing", "record"))
def test_a_damaged_point_is_not_believed(tmp_path, damage):
    made = point(tmp_path, 2)
    if damage == "changed":
        (made / "optimizer.pt").write_bytes(b"statf")
    elif damage == "missing":
        (made / "optimizer.pt").unlink()
    else:
        (made / resume.RECORD).write_text('{"recipe"')
    assert resume.latest(tmp_path, RECIPE) is None
    assert not made.exists()


def test_another_recipes_point_is_not_taken(tmp_path):
    point(tmp_path, 2, {**RECIPE, "seed": 1})
    assert resume.latest(tmp_path, RECIPE) is None


def test_learned_tensors_come_back_and_others_are_refused(tmp_path):
    model = nn.Linear(3, 2)
    resume.save_learned(dict(model.named_parameters()), tmp_path)
    other = nn.Linear(3, 2)
    resume.load_learned(other, tmp_path)
    assert torch.equal(other.weight, model.weight)
    model.bias.requires_grad_(False)
    with pytest.raises(UserError, match="not of this training"):
        resume.load_learned(model, tmp_path)
