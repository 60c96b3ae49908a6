"""What a plan tells before anything is fetched, and of what is here already. No torch."""

import csv
import json
import re
from pathlib import Path

import pytest

from sight_beyond_text import grid, study
from sight_beyond_text.costs import Foreteller
from sight_beyond_text.errors import UserError
from sight_beyond_text.plan import as_table, plan
from sight_beyond_text.shapes import KNOWN, model_shape, stored_bytes


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    """A folder without any data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("name", ["paper", "modern", "laptop"])
def test_a_study_is_told_in_hours_and_money_before_its_data_is_here(
    repository, elsewhere, name
) -> None:
    planned = plan(study.read(repository / "workflow" / "studies" / f"{name}.yaml"))
    for row in (*planned["runs"], *planned["alignments"]):
        assert row["flops"] > 0 and row["hours"] > 0 and row["price"] > 0, row["run"]
    assert planned["left"]["flops_unknown"] == planned["left"]["price_unknown"] == 0
    assert planned["left_to_score"]["price"] > 0
    assert planned["fetching"]["unknown"] == 0
    assert planned["fetching"]["peak"] > planned["fetching"]["bytes"] > 2**30
    assert {row["from"] for row in planned["effects"] if row["suite"] == "text"} == {"assumed"}
    told = as_table(planned)
    assert "Left to score: " in told
    assert re.search(r"\ntruthfulqa_mc1 +text +817 +5.4 +assumed\n", told)


def test_the_published_recipe_takes_what_its_data_and_shapes_say(repository, elsewhere) -> None:
    planned = plan(study.read(repository / "workflow" / "studies" / "paper.yaml"))
    aligned = planned["alignments"][0]
    assert aligned["steps"] == -(-595_375 // 128)
    full = next(row for row in planned["runs"] if row["tuning"] == "full")
    assert full["steps"] == 10_000
    weights = model_shape(KNOWN["huggyllama/llama-7b"]).total
    # Six operations a weight and position; some for attention, none for the embeddings.
    assert 0.95 < full["flops"] / (6 * weights * full["tokens"]) < 1.1


def test_models_of_the_micro_world_have_the_parameters_that_they_will_have(
    repository, elsewhere
) -> None:
    """As the records of the default study's runs say."""
    with (repository / "figures" / "data" / "micro" / "runs.csv").open() as stream:
        # A change of the world gives its runs other hashes, but no other shapes.
        recorded = {row["run"].rpartition("-")[0]: row for row in csv.DictReader(stream)}
    runs = plan(study.read(repository / "config.yaml"))["runs"]
    assert len(runs) == 20
    for row in runs:
        record = recorded[row["run"].rpartition("-")[0]]
        assert row["parameters"] == int(record["parameters"]), row["run"]
        assert row["learned_parameters"] == int(record["trainable_parameters"]), row["run"]
        assert row["memory"]["with_checkpointing"] > 0


def values(folder: Path, **further) -> dict:
    recipe = {"learning_rate": 1e-3, "batch_size": 4}
    rows = folder / "rows.json"
    return {
        "name": "tiny",
        "data": {"images": str(folder), "instructions": str(rows), "alignment": str(rows)},
        "tower": {"preset": "published"},
        "bases": {"seven": {"model": "meta-llama/Llama-2-7b-hf"}},
        "sources": {"text": {}},
        "alignment": recipe,
        "tunings": {"lora": recipe},
        **further,
    }


def sample(name: str, answer: str, **further) -> dict:
    said = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": answer}]
    return {"id": name, "conversations": said, **further}


def test_kinds_are_told_by_the_files_of_one_kind_each(elsewhere) -> None:
    rows = [sample(str(number), "word " * 20) for number in range(10)]
    (elsewhere / "rows.json").write_text(json.dumps(rows))
    for kind, own in (("detail", rows[:3]), ("reasoning", rows[3:])):
        (elsewhere / f"{kind}.json").write_text(json.dumps(own))
    given = values(elsewhere, sources={"some": {"form": "text", "kinds": ["detail"]}})
    given["data"]["kinds"] = {k: str(elsewhere / f"{k}.json") for k in ("detail", "reasoning")}
    (row,) = plan(study.load(given))["runs"]
    assert row["steps"] == 1 and 3 * 20 < row["tokens"] < 3 * 90


def test_a_sources_own_layout_is_read(elsewhere) -> None:
    (elsewhere / "rows.json").write_text(json.dumps([sample("1", "yes")]))
    shared = [
        {
            "id": str(number),
            "conversations": [
                {"from": "user", "value": "Hello?"},
                {"from": "chatgpt", "value": "word " * 40},
                {"from": "user", "value": "never answered"},
            ],
        }
        for number in range(8)
    ]
    (elsewhere / "shared.json").write_text(json.dumps(shared))
    own = {"form": "text", "instructions": str(elsewhere / "shared.json"), "layout": "sharegpt"}
    (row,) = plan(study.load(values(elsewhere, sources={"chats": own})))["runs"]
    assert row["steps"] == 2 and 8 * 48 < row["tokens"] < 8 * 110


def test_boxes_make_samples_longer(elsewhere) -> None:
    (elsewhere / "rows.json").write_text(json.dumps([sample("1", "yes", image="1.jpg")] * 4))
    (elsewhere / "captions.json").write_text("{}")
    sources = {"bare": {"form": "caption"}, "boxes": {"form": "caption", "boxes": True}}
    given = values(elsewhere, sources=sources)
    given["data"] |= {"captions": "captions.json", "instances": "captions.json"}
    bare, boxes = plan(study.load(given))["runs"]
    assert boxes["tokens"] - bare["tokens"] == pytest.approx(4 * 227, abs=1)


def test_gpus_of_the_study_come_beside_those_that_are_known_or_change_them(elsewhere) -> None:
    gpus = {"h100": {"price_per_hour": 3.0}, "mine": {"memory_gib": 24, "tflops": 100}}
    on = study.Hardware(gpu="h100", gpus=gpus)
    assert (on.memory_gib, on.tflops, on.price_per_hour) == (80, 989, 3.0)
    mine = on.on("mine")
    assert (mine.memory_gib, mine.tflops, mine.price_per_hour) == (24, 100, None)
    assert mine.on("h100") == on
    assert study.Hardware(gpu="h100", gpus=gpus, price_per_hour=1.0).price_per_hour == 1.0
    with pytest.raises(UserError, match="'h1000' isn't known; there are: b200.*mine"):
        on.on("h1000")
    with pytest.raises(UserError, match="hardware.gpus.mine.memory: unknown key"):
        study.load(values(elsewhere, hardware={"gpu": "h100", "gpus": {"mine": {"memory": 1}}}))


def test_what_is_scored_already_is_told(elsewhere) -> None:
    (elsewhere / "rows.json").write_text(json.dumps([sample("1", "yes")] * 4))
    of = study.load(
        values(
            elsewhere,
            evaluation={"text": {"truthfulqa_mc1": {}, "gsm8k": {}, "arc_easy": {}}},
            hardware={"gpu": "a100-80"},
        )
    )
    before = plan(of)
    assert [row["done"] for row in before["evaluations"]] == [False, False]
    assert before["evaluations"][0]["items"] == 817 + 1319
    assert before["evaluations"][0]["unknown"] == 1
    done = Path(before["evaluations"][1]["folder"])
    done.mkdir(parents=True)
    (done / "scores.parquet").write_bytes(b"")
    after = plan(of)
    assert [row["done"] for row in after["evaluations"]] == [False, True]
    assert after["left_to_score"]["flops"] == before["left_to_score"]["flops"] / 2
    assert "Left to score: 1 of 2 evaluations: " in as_table(after)


def test_corrupted_images_are_counted_where_they_take_the_time(elsewhere) -> None:
    (elsewhere / "rows.json").write_text(json.dumps([sample("1", "yes")]))
    pope = {"type": "pope", "images": "i", "questions": "q"}
    twins = {**pope, "corruptions": {"kinds": ["fog", "snow"], "severities": [1, 3]}}
    hours = []
    for entry in (pope, twins):
        further = {"evaluation": {"image": {"pope": entry}}, "hardware": {"gpu": "a100-80"}}
        hours.append(plan(study.load(values(elsewhere, **further))))
    assert hours[0]["left_to_score"]["corrupted"] == 0
    assert hours[1]["left_to_score"]["corrupted"] == 4 * hours[0]["left_to_score"]["items"]
    assert "80% of their questions on corrupted images" in as_table(hours[1])
    # What they can detect is told once.
    assert [row["benchmark"] for row in hours[1]["effects"]] == ["pope"]


def test_written_answers_take_longer_than_read_ones(elsewhere) -> None:
    (elsewhere / "rows.json").write_text(json.dumps([sample("1", "yes")]))
    hours = {}
    for task in ("mathqa", "gsm8k"):
        given = values(elsewhere, evaluation={"text": {task: {}}}, hardware={"gpu": "a100-80"})
        of = study.load(given)
        spec = grid.evaluation_specs(of)[0]
        found = Foreteller(of).evaluation(spec)
        hours[task] = found["gpu_hours"] / found["flops"]
    assert hours["gsm8k"] > hours["mathqa"]


def test_room_while_fetching_is_that_of_the_largest_archive_too(elsewhere) -> None:
    resources = {
        name: {"gib": gib, "items": [{"url": f"http://x.org/{name}.zip", "unpack": True, **more}]}
        for name, gib, more in (("photos", 2, {}), ("notes", 4, {"size": 2**29}))
    }
    resources["plain"] = {"gib": 8, "items": [{"url": "http://x.org/plain.json"}]}
    told = plan(study.load(values(elsewhere, resources=resources)))
    models = sum(row["bytes"] for row in told["resources"] if "/" in row["name"])
    assert told["fetching"]["bytes"] == 14 * 2**30 + models
    assert told["fetching"]["peak"] == told["fetching"]["bytes"] + 2 * 2**30


def test_weights_take_the_bytes_that_their_files_have() -> None:
    """CLIP's files hold both towers in 32 bits: 427,616,513 and 151,277,313 parameters."""
    assert stored_bytes(KNOWN["openai/clip-vit-large-patch14"]) == 4 * 427_616_513
    assert stored_bytes(KNOWN["openai/clip-vit-base-patch32"]) == 4 * 151_277_313
    llama = KNOWN["huggyllama/llama-7b"]
    assert stored_bytes(llama) == 2 * 6_738_415_616
    assert stored_bytes({**llama, "torch_dtype": "float32"}) == 4 * 6_738_415_616
