"""A run's id changes with all that changes its weights, and with nothing else."""

import json
import shutil
from pathlib import Path

import pytest

from sight_beyond_text import grid, study
from sight_beyond_text.errors import UserError

TRAINING = {"learning_rate": 1e-2, "batch_size": 16}
VALUES = {
    "name": "small",
    "micro": {},
    "data": {
        "images": "micro:images/train",
        "captions": "micro:annotations/captions_train.json",
        "instances": "micro:annotations/instances_train.json",
    },
    "tower": {"model": "micro:models/tower"},
    "bases": {
        "base": {"model": "micro:models/base"},
        "hub": {"model": "owner/model", "revision": "a1"},
    },
    "sources": {"visual": {}, "caption": {}, "text": {}},
    "alignment": TRAINING,
    "tunings": {
        "full": TRAINING,
        "lora": TRAINING | {"lora": {"rank": 16}},
        "qlora": TRAINING,
        "frozen": TRAINING,
    },
    "seeds": [0, 1],
    "references": {"other": {"model": "owner/other"}},
    "evaluation": {
        "text": {"mmlu": {"path": "micro:benchmarks/mmlu", "fewshot": 5}},
        "image": {"pope": {"type": "pope", "images": "micro:images/val", "questions": "q.json"}},
    },
}
OTHER_TRAINING = {
    "max_learned_tokens": 99,
    "learning_rate": 2e-2,
    "epochs": 2,
    "batch_size": 8,
    "warmup": 0.5,
    "weight_decay": 0.1,
    "max_length": 100,
    "max_samples": 7,
    "precision": "fp32",
    "optimizer": "paged_adamw_8bit",
    "group_by_length": True,
}
OTHER_LORA = {"rank": 8, "alpha": 8, "dropout": 0.5, "targets": ["q_proj"]}
OTHER_MICRO = {
    "seed": 1,
    "train_images": 7,
    "val_images": 7,
    "documents": 7,
    "conversations": 7,
    "vocabulary": 512,
    "hidden_size": 32,
    "layers": 2,
    "base_steps": 7,
    "chat_steps": 7,
    "tower_steps": 7,
}
OTHER_INSTRUCTIONS = {
    "conversations": 2,
    "turns": 2,
    "detail": 0.9,
    "reasoning": 0.9,
    "captions_per_image": 3,
    "max_images": 9,
    "seed": 5,
}
# How these are done is told in the recipe, though the weights stay what they are.
LEAVE_THE_WEIGHTS = {
    "max_lost",
    "gradient_checkpointing",
    "token_budget",
    "save_steps",
    "processes",
    "fsdp",
    "preset",
}

Place = tuple[str, ...]


def changed(*changes: tuple[Place, object]) -> study.Study:
    """The study with some values set; places are paths of keys."""
    values = json.loads(json.dumps(VALUES))
    for place, value in changes:
        at = values
        for part in place[:-1]:
            at = at.setdefault(part, {})
        at[place[-1]] = value
    return study.load(values)


def runs(made: study.Study) -> dict[tuple, str]:
    """The recipe's part of each run's id, by cell."""
    return {
        (cell.base, cell.source, cell.tuning, cell.seed): grid.run_spec(made, cell)["id"][-8:]
        for cell in made.cells()[0]
    }


def alignments(made: study.Study) -> dict[tuple, str]:
    return {
        (base, seed): grid.align_spec(made, base, seed)["id"]
        for base in made.bases
        for seed in made.seeds
    }


@pytest.fixture(scope="module")
def before() -> dict[tuple, str]:
    return runs(changed())


def differing(before: dict, after: dict) -> set[tuple]:
    """The cells of both whose ids differ."""
    assert before.keys() == after.keys()
    return {cell for cell in before if before[cell] != after[cell]}


def test_no_two_cells_share_an_id(before) -> None:
    assert len(before) == 2 * (3 * 3 + 1) * 2
    assert len(set(before.values())) == len(before)
    assert runs(changed()) == before
    # Not by its readable part alone: a recipe tells of the seed too.
    digests = {name[-8:] for name in alignments(changed()).values()}
    assert len(digests) == 2 * 2


def test_tables_of_changes_name_every_setting() -> None:
    """So that whoever adds a setting has to say here whether it changes the weights."""
    assert OTHER_TRAINING.keys() == set(study.Training.model_fields) - LEAVE_THE_WEIGHTS
    assert OTHER_LORA.keys() == set(study.Lora.model_fields)
    assert OTHER_MICRO.keys() == set(study.Micro.model_fields)
    assert OTHER_INSTRUCTIONS.keys() == set(study.Instructions.model_fields)
    assert set(study.Tuning.model_fields) - set(study.Training.model_fields) == {
        "mode",
        "projector_learning_rate",
        "lora",
    }
    fields = {"model", "revision", "template", "label", "remote_code"}
    assert set(study.Base.model_fields) == fields
    assert set(study.Source.model_fields) - {"instructions", "layout", "boxes"} == {"form", "kinds"}
    assert set(study.Tower.model_fields) - {"preset", "preparation"} == {
        "model",
        "revision",
        "layer",
        "projector",
    }


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *((("alignment", key), value) for key, value in OTHER_TRAINING.items()),
        *((("micro", key), value) for key, value in OTHER_MICRO.items()),
        *((("data", "make", key), value) for key, value in OTHER_INSTRUCTIONS.items()),
        (("data", "leakage"), "drop"),
        (("tower", "model"), "owner/tower"),
        (("tower", "layer"), -1),
        (("tower", "projector"), "mlp2x_gelu"),
        (("data", "captions"), "micro:annotations/other.json"),
        (("data", "instances"), "micro:annotations/other.json"),
    ],
    ids=str,
)
def test_what_all_runs_learn_from_changes_all_ids(before, place: Place, value) -> None:
    assert differing(before, runs(changed((place, value)))) == before.keys()


@pytest.mark.parametrize(
    ("place", "value", "where"),
    [
        *((("tunings", "full", k), v, {"tuning": "full"}) for k, v in OTHER_TRAINING.items()),
        *((("tunings", "lora", "lora", k), v, {"tuning": "lora"}) for k, v in OTHER_LORA.items()),
        (("tunings", "qlora", "lora"), {"rank": 8}, {"tuning": "qlora"}),
        (("tunings", "qlora", "mode"), "lora", {"tuning": "qlora"}),
        (("tunings", "frozen", "projector_learning_rate"), 0.5, {"tuning": "frozen"}),
        (("bases", "base", "template"), "v0", {"base": "base"}),
        (("bases", "base", "model"), "micro:models/chat", {"base": "base"}),
        (("bases", "hub", "revision"), "b2", {"base": "hub"}),
        (("sources", "text", "form"), "caption", {"source": "text"}),
        (("sources", "visual", "kinds"), ["detail"], {"source": "visual"}),
        (("data", "captions_in_place"), 2, {"source": "caption"}),
    ],
    ids=str,
)
def test_what_some_runs_learn_from_changes_their_ids_alone(
    before, place: Place, value, where: dict
) -> None:
    ((axis, label),) = where.items()
    index = ("base", "source", "tuning").index(axis)
    expected = {cell for cell in before if cell[index] == label}
    assert differing(before, runs(changed((place, value)))) == expected


def test_another_seed_is_another_run_and_leaves_the_others(before) -> None:
    after = runs(changed((("seeds",), [1, 2])))
    assert {cell: name for cell, name in after.items() if cell[3] == 1} == {
        cell: name for cell, name in before.items() if cell[3] == 1
    }
    assert not {name for cell, name in after.items() if cell[3] == 2} & set(before.values())


@pytest.mark.parametrize(
    "changes",
    [
        [(("name",), "else")],
        [(("bases", "base", "label"), "A base")],
        [(("figures",), {"formats": ["png"], "dpi": 300, "palette": {"text": "#000000"}})],
        [(("data", "images"), "micro:images/elsewhere")],
        [(("evaluation", "batch_size"), 3)],
        [(("evaluation", "text"), {"boolq": {"limit": 3}})],
        [(("evaluation", "image"), {})],
        [(("references",), {})],
        [(("tunings", "lora", "lora", "alpha"), 16)],  # the default, spelt out
        [(("tunings", "qlora", "lora"), {})],
        [(("sources", "visual"), {"form": "visual", "kinds": "all"})],
    ],
    ids=str,
)
def test_names_looks_places_and_benchmarks_change_no_id(before, changes) -> None:
    made = changed(*changes)
    assert runs(made) == before
    assert alignments(made) == alignments(changed())


def test_other_labels_of_sources_and_tunings_name_the_same_recipe(before) -> None:
    made = changed(
        (("sources",), {"seen": {"form": "visual"}}),
        (("tunings",), {"all": TRAINING | {"mode": "full"}}),
    )
    assert runs(made)["base", "seen", "all", 1] == before["base", "visual", "full", 1]
    cell = made.cells()[0][0]
    assert grid.run_spec(made, cell)["id"].startswith("base-seen-all-s0-")


def test_a_tunings_settings_leave_the_alignments_alone() -> None:
    same = changed(
        (("tunings", "full", "learning_rate"), 1.0),
        (("bases", "base", "template"), "v0"),
        (("sources", "text", "kinds"), ["detail"]),
    )
    assert alignments(same) == alignments(changed())
    other = changed((("bases", "hub", "revision"), "b2"))
    assert differing(alignments(changed()), alignments(other)) == {("hub", 0), ("hub", 1)}


# Files that are given, known by their content


@pytest.fixture
def given(tmp_path: Path) -> tuple[Path, study.Study]:
    """A study of given files, and their folder."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("instructions", "alignment", "captions"):
        (folder / f"{name}.json").write_text(f'["{name}"]')
    return folder, of_files(folder)


def of_files(folder: Path, **others: Path) -> study.Study:
    paths = {name: folder / f"{name}.json" for name in ("instructions", "alignment", "captions")}
    paths |= others
    data = {"images": str(folder), **{name: str(path) for name, path in paths.items()}}
    return changed((("data",), data))


def test_the_same_content_elsewhere_is_the_same_run(given) -> None:
    folder, made = given
    moved = folder.with_name("moved")
    shutil.copytree(folder, moved)
    assert runs(of_files(moved)) == runs(made)
    assert alignments(of_files(moved)) == alignments(made)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("instructions", lambda cell: True),
        ("alignment", lambda cell: True),
        ("captions", lambda cell: cell[1] == "caption"),
    ],
)
def test_other_content_at_the_same_place_is_another_run(given, name: str, changes) -> None:
    folder, made = given
    first, aligned = runs(made), alignments(made)
    (folder / f"{name}.json").write_text('["changed"]')
    made = of_files(folder)  # a study looks at its files once
    assert differing(first, runs(made)) == {cell for cell in first if changes(cell)}
    differ = differing(aligned, alignments(made))
    assert differ == (aligned.keys() if name == "alignment" else set())


def test_given_instructions_are_not_made_and_their_settings_do_not_matter(given) -> None:
    folder, made = given
    assert grid.instructions_spec(made) is None
    values = {"images": str(folder), "make": {"turns": 9}}
    values |= {name: str(folder / f"{name}.json") for name in ("instructions", "alignment")}
    bare = changed((("data",), values), (("sources",), {"visual": {}, "text": {}}))
    expected = {cell: name for cell, name in runs(made).items() if cell[1] != "caption"}
    assert runs(bare) == expected


def test_a_local_model_is_known_by_its_files(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    (one / "config.json").write_text('{"layers": 4}')
    (one / "model.safetensors").write_bytes(b"1234")
    shutil.copytree(one, two)
    assert grid.identity(str(one)) == grid.identity(str(two), "ignored")
    (two / "config.json").write_text('{"layers": 5}')
    assert grid.identity(str(one)) != grid.identity(str(two))
    shutil.rmtree(two)
    shutil.copytree(one, two)
    (two / "model.safetensors").write_bytes(b"12345")
    assert grid.identity(str(one)) != grid.identity(str(two))


def test_hub_models_are_known_by_their_revision() -> None:
    assert grid.identity("a/b") == grid.identity("a/b", "main")
    assert len({grid.identity("a/b"), grid.identity("a/b", "v1"), grid.identity("a/c")}) == 3


# Specs


def all_specs(made: study.Study) -> list[grid.Spec]:
    return [
        grid.instructions_spec(made),
        grid.compare_spec(made),
        *(grid.align_spec(made, base, seed) for base in made.bases for seed in made.seeds),
        *(grid.run_spec(made, cell) for cell in made.cells()[0]),
        *grid.subjects(made),
        *(
            grid.evaluation_spec(made, subject, suite)
            for subject in grid.subjects(made)
            for suite in ("text", "image")
        ),
    ]


def test_specs_come_back_from_their_text_as_they_were() -> None:
    made = changed((("bases", "base", "label"), 'A "quoted" \\ labél'))
    for spec in all_specs(made):
        assert json.loads(str(spec)) == dict(spec)
        assert json.loads(f"{spec}") == dict(spec)
        assert "\n" not in str(spec)


def test_a_runs_spec_says_what_its_cell_says() -> None:
    made = changed()
    for cell in made.cells()[0]:
        spec = grid.run_spec(made, cell)
        recipe = made.tunings[cell.tuning]
        assert spec["mode"] == recipe.mode and spec["seed"] == cell.seed
        assert spec["source"]["form"] == cell.source
        assert (spec["lora"] is not None) == (recipe.mode in ("lora", "qlora"))
        assert spec["projector"] == grid.align_spec(made, cell.base, cell.seed)["checkpoint"]
        assert spec["checkpoint"] == f"results/runs/{spec['id']}/checkpoint"
        assert not str(spec).count(study.MICRO)


@pytest.mark.parametrize(("precision", "version"), [("fp32", 2), ("bf16", 3)])
def test_only_trainings_in_bf16_are_of_the_recipe_that_starts_in_float32(precision, version):
    made = changed((("tunings", "full", "precision"), precision))
    cell = next(cell for cell in made.cells()[0] if cell.tuning == "full")
    assert grid.run_spec(made, cell)["recipe"]["version"] == version


def test_every_subject_is_one_of_base_reference_and_run() -> None:
    made = changed()
    subjects = grid.subjects(made)
    names = [subject["id"] for subject in subjects]
    assert len(set(names)) == len(names)
    kinds = [subject["kind"] for subject in subjects]
    assert [kinds.count(kind) for kind in ("base", "reference", "run")] == [2, 1, 40]
    told = grid.compare_spec(made)["subjects"]
    assert [subject["id"] for subject in told] == names
    # A reference is scored on text alone, all others on both suites.
    assert {s["kind"]: len(s["evaluations"]) for s in told} == {"base": 2, "reference": 1, "run": 2}


def evaluated(made: study.Study) -> list[str]:
    return [folder for s in grid.compare_spec(made)["subjects"] for folder in s["evaluations"]]


def test_an_evaluations_folder_follows_what_is_asked_and_not_how_fast() -> None:
    first = evaluated(changed())
    for same in (
        (("evaluation", "batch_size"), 3),
        (("evaluation", "image", "pope", "images"), "micro:images/elsewhere"),
        (("figures",), {"dpi": 300}),
        (("bases", "base", "label"), "A base"),
    ):
        assert evaluated(changed(same)) == first
    for place, value, suite in (
        (("evaluation", "text", "mmlu", "fewshot"), 0, "/text-"),
        (("evaluation", "text", "mmlu", "path"), "micro:benchmarks/else", "/text-"),
        (("evaluation", "image", "pope", "limit"), 3, "/image-"),
        (("evaluation", "image", "pope", "questions"), "other.json", "/image-"),
        (("evaluation", "image", "pope", "prompt"), "Is it? {question}", "/image-"),
    ):
        after = evaluated(changed((place, value)))
        pairs = zip(first, after, strict=True)
        assert {one for one, two in pairs if one != two} == {one for one in first if suite in one}


# Inputs


def test_all_missing_inputs_are_told_at_once_with_their_keys(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    missing = {
        ("data", "images"): "photos",
        ("data", "instructions"): "instructions.json",
        ("data", "alignment"): "alignment.json",
        ("data", "captions"): "captions.json",
        ("data", "instances"): "instances.json",
        ("tower", "model"): "./models/tower",
        ("bases", "base", "model"): "models/7b/base",
        ("references", "other", "model"): "one-word",
        ("evaluation", "text", "mmlu", "path"): "benchmarks/mmlu",
        ("evaluation", "image", "pope", "images"): "pope/images",
        ("evaluation", "image", "pope", "questions"): "pope/questions.json",
        ("evaluation", "image", "pope", "annotations"): "pope/annotations.json",
    }
    made = changed(*missing.items())
    with pytest.raises(UserError) as error:
        grid.check_inputs(made)
    found = [tuple(line.split(": ")[:2]) for line in str(error.value).splitlines()]
    assert sorted(found) == sorted((".".join(key), path) for key, path in missing.items())
    for path in missing.values():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
    grid.check_inputs(made)


def test_a_missing_input_is_told_with_its_line(tmp_path: Path) -> None:
    made = changed((("bases", "base", "model"), "models/7b/base"))
    file = tmp_path / "study.yaml"
    file.write_text("name: x\nbases:\n  base:\n    model: models/7b/base\n", encoding="utf-8")
    with pytest.raises(UserError, match=rf"(?m)^{file}:4: bases\.base\.model: models/7b/base: no"):
        grid.check_inputs(made, [file])


def test_hub_ids_and_micro_paths_are_not_looked_for(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert grid.missing_inputs(changed((("evaluation", "image"), {}))) == []
