"""A study file: what is allowed, how mistakes are told, and the schema that says the same."""

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import yaml

from sight_beyond_text import study
from sight_beyond_text.errors import UserError

SCHEMA = "workflow/schemas/config.schema.json"
STUDY = """\
# A study with a grid of 2 x 3 x 4 x 1 cells.
name: small
from_cache: false
micro:
  train_images: 20
data:
  images: micro:images/train
  captions: micro:annotations/captions_train.json
  instances: micro:annotations/instances_train.json
  captions_in_place: 1
  make:
    detail: 0.1
tower:
  model: micro:models/tower
  layer: -2
  projector: linear
bases:
  base: { model: "micro:models/base", template: v1 }
  chat: { model: "micro:models/chat" }
sources:
  visual: {}
  caption: {}
  text: {}
alignment: &training
  learning_rate: 1.0e-2
  batch_size: 16
tunings:
  full: { <<: *training, learning_rate: 2.0e-3 }
  lora: { <<: *training, lora: &lora { rank: 16, alpha: 32 } }
  qlora: { <<: *training, lora: { rank: 8 } }
  frozen: { <<: *training }
seeds: [0]
evaluation:
  protocol: current
  text:
    mmlu: { path: "micro:benchmarks/mmlu", fewshot: 5 }
  image:
    vqa:
      type: vqa
      images: micro:images/val
    pope:
      type: pope
      images: micro:images/val
    captions:
      type: captions
      images: micro:images/val
      limit: 100
figures:
  formats: [svg]
"""


@pytest.fixture
def values() -> dict:
    """The study's values; nothing in them is shared, unlike YAML's anchors."""
    made = json.loads(json.dumps(yaml.safe_load(STUDY)))
    del made["from_cache"]
    return made


@pytest.fixture
def mistakes(tmp_path: Path) -> Callable[..., list[str]]:
    """Changes the study's text and gives what is said against it, the file's name cut."""

    def told(*changes: tuple[str, str]) -> list[str]:
        changed = STUDY
        for old, new in changes:
            assert old in changed
            changed = changed.replace(old, new, 1)
        path = tmp_path / "study.yaml"
        path.write_text(changed, encoding="utf-8")
        with pytest.raises(UserError) as error:
            study.read(path)
        lines = str(error.value).splitlines()
        assert all(line.startswith(str(path)) for line in lines)
        return [line.removeprefix(str(path)) for line in lines]

    return told


def line_of(part: str) -> int:
    """The number of the first line that holds a part."""
    return next(n for n, line in enumerate(STUDY.splitlines(), 1) if part in line)


def studies(repository: Path) -> list[Path]:
    """All studies that the repository brings along."""
    return [repository / "config.yaml", *sorted((repository / "workflow/studies").glob("*.yaml"))]


# Mistakes


@pytest.mark.parametrize(
    ("key", "misspelt", "place", "near"),
    [
        ("seeds: [0]", "seed: [0]", "seed", "seeds"),
        ("evaluation:", "evalution:", "evalution", "evaluation"),
        ("  captions_in_place: 1", "  caption_in_place: 1", "data.caption_in_place", None),
        ("    detail: 0.1", "    detial: 0.1", "data.make.detial", "detail"),
        ("  layer: -2", "  layr: -2", "tower.layr", "layer"),
        ("  train_images:", "  train_image:", "micro.train_image", "train_images"),
        ("rank: 16", "rnk: 16", "tunings.lora.lora.rnk", "rank"),
        ("fewshot: 5", "few_shot: 5", "evaluation.text.mmlu.few_shot", "fewshot"),
        ("      limit: 100", "      limt: 100", "evaluation.image.captions.limt", "limit"),
        ("  protocol: ", "  protcol: ", "evaluation.protcol", "protocol"),
        ("  formats:", "  format:", "figures.format", "formats"),
    ],
)
def test_an_unknown_key_is_refused_and_the_nearest_known_one_named(
    mistakes, key: str, misspelt: str, place: str, near: str | None
) -> None:
    line = line_of(key)
    lines = mistakes((key, misspelt))
    near = near or key.strip().partition(":")[0]
    wanted = f":{line}: {place}: unknown key; did you mean '{near}'? known keys: "
    (found,) = [row for row in lines if row.startswith(wanted)]
    assert near in found.removeprefix(wanted).split(", ")


def test_weights_that_one_process_should_spread_are_refused_in_one_line(mistakes) -> None:
    (found,) = mistakes(("  full: { ", "  full: { fsdp: true, "))
    assert "tunings.full" in found
    assert "fsdp spreads weights over several processes, found processes: 1" in found


def test_an_unknown_key_like_no_other_lists_those_of_its_own_place(mistakes) -> None:
    (found,) = mistakes(("      type: vqa\n", "      type: vqa\n      x: 1\n"))
    known = ", ".join(sorted(study.ImageBenchmark.model_fields))
    line = line_of("      type: vqa") + 1
    assert found == f":{line}: evaluation.image.vqa.x: unknown key; known keys: {known}"


def test_all_mistakes_are_told_at_once_with_line_value_and_what_is_allowed(mistakes) -> None:
    lines = mistakes(
        ("template: v1", "template: v2"),
        ("projector: linear", "projector: liner"),
        ("learning_rate: 2.0e-3", "learning_rate: -1"),
        ("seeds: [0]", "seeds: [first]"),
        ("type: pope", "type: popee"),
        ("fewshot: 5", "fewshot: -5"),
        ("formats: [svg", "formats: [gif"),
        ("detail: 0.1", "detail: 1.5"),
    )
    expected = {
        "bases.base.template": ("'v2'", "'v0', 'v1', 'llava_llama_2' or 'chat'"),
        "tower.projector": ("'liner'", "'linear' or 'mlp2x_gelu'; did you mean 'linear'?"),
        "tunings.full.learning_rate": ("-1", "greater than 0"),
        "seeds.0": ("'first'", "valid integer"),
        "evaluation.image.pope.type": ("'popee'", "did you mean 'pope'?"),
        "evaluation.text.mmlu.fewshot": ("-5", "greater than or equal to 0"),
        "figures.formats.0": ("'gif'", "'svg', 'png' or 'pdf'"),
        "data.make.detail": ("1.5", "less than or equal to 1"),
    }
    found = {row.split(": ")[1]: row for row in lines}
    assert found.keys() == expected.keys()
    places = {
        "bases.base.template": "  base:",
        "tunings.full.learning_rate": "  full:",
        "seeds.0": "seeds:",
        "data.make.detail": "    detail:",
    }
    for key, (value, allowed) in expected.items():
        assert f"found {value}" in found[key] and allowed in found[key]
    for key, part in places.items():
        assert found[key].startswith(f":{line_of(part)}: ")


def test_a_wrong_item_of_a_list_is_told_with_its_number(mistakes) -> None:
    lines = mistakes(("  visual: {}", "  visual: { kinds: [detail, convers] }"))
    place = f":{line_of('  visual:')}: sources.visual.kinds.1"
    allowed = "'conversation', 'detail' or 'reasoning'; did you mean 'conversation'?"
    assert f"{place}: found 'convers', allowed: {allowed}" in lines


def test_missing_keys_are_named_at_the_place_that_lacks_them(mistakes) -> None:
    lines = mistakes(("name: small\n", ""), ("  model: micro:models/tower\n", ""))
    assert ":1: name: is missing; it must be given" in lines
    assert f":{line_of('tower:') - 1}: tower.model: is missing; it must be given" in lines


@pytest.mark.parametrize("label", ["micro base", "../base", "-base", ""])
def test_labels_that_could_not_name_a_folder_are_refused(mistakes, label: str) -> None:
    (found,) = mistakes(("  base:", f"  {json.dumps(label)}:"))
    assert f"bases.{label}: found {label!r}; string should match pattern" in found


def test_adapters_are_refused_where_none_learn(values: dict) -> None:
    values["tunings"]["frozen"]["lora"] = {"rank": 4}
    with pytest.raises(UserError, match="^tunings.frozen: mode 'frozen' has no adapters"):
        study.load(values)


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("captions", "data: needs captions, unless both instructions and alignment are given"),
        ("instances", "data: needs instances to make instructions, or instructions"),
    ],
)
def test_data_must_give_something_to_learn(values: dict, gone: str, message: str) -> None:
    del values["data"][gone]
    with pytest.raises(UserError) as error:
        study.load(values)
    assert str(error.value) == message


def test_given_files_need_no_annotations(values: dict) -> None:
    values["data"] = {"images": "images", "instructions": "a.json", "alignment": "b.json"}
    with pytest.raises(UserError, match="sources.caption needs data.captions"):
        study.load(values)
    del values["sources"]["caption"]
    assert study.load(values).data.captions is None


def test_micro_paths_are_in_the_world(values: dict) -> None:
    values["tower"]["model"] = "micro:models/towr"
    with pytest.raises(UserError, match="'micro:models/towr' isn't in the micro world"):
        study.load(values)


def test_micro_paths_need_a_micro_world(values: dict) -> None:
    del values["micro"]
    with pytest.raises(UserError) as error:
        study.load(values)
    assert "'micro:images/train' needs a micro world; add `micro: {}`" in str(error.value)


def test_seeds_must_differ(mistakes) -> None:
    (found,) = mistakes(("seeds: [0]", "seeds: [1, 0, 1]"))
    assert found.startswith(f":{line_of('seeds:')}: seeds: ")
    assert "1" in found


@pytest.mark.parametrize("axis", ["bases", "sources", "tunings", "seeds"])
def test_no_axis_may_be_empty(values: dict, axis: str) -> None:
    values[axis] = type(values[axis])()
    with pytest.raises(UserError, match=f"^{axis}: found .*at least 1 item"):
        study.load(values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1,\n", ":2: not YAML: "),
        (b"- a\n", ": a study is a mapping of keys, found list"),
        (b"", ": a study is a mapping of keys, found NoneType"),
        (b"name: \xff\n", ": not YAML: 'utf-8' codec can't decode"),
    ],
)
def test_a_file_that_is_no_study_is_refused_in_one_line(
    content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        study.read(path)
    assert str(error.value).startswith(f"{path}{message}")
    assert "\n" not in str(error.value)


def test_a_missing_file_or_a_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.yaml", tmp_path):
        with pytest.raises(UserError, match=f"^{path}: "):
            study.read(path)


def test_a_mistake_in_the_second_of_two_files_is_told_with_that_file(
    values: dict, tmp_path: Path
) -> None:
    first, second = tmp_path / "config.yaml", tmp_path / "more.yaml"
    first.write_text(STUDY)
    second.write_text("# larger\n\nalignment:\n  batch_size: 0\n")
    values["alignment"]["batch_size"] = 0
    values["tower"]["layr"] = 1
    with pytest.raises(UserError) as error:
        study.load(values, [first, second])
    batch, layer = sorted(str(error.value).splitlines(), key=lambda row: "layr" in row)
    assert batch.startswith(f"{second}:4: alignment.batch_size: found 0; ")
    assert layer.startswith(f"{first}:{line_of('tower:')}: tower.layr: unknown key")


# The grid's cells


def test_labels_that_are_forms_and_modes_need_not_repeat_them(values: dict) -> None:
    values["sources"] = {"visual": None, "caption": {"kinds": ["detail"]}, "text": {}}
    made = study.load(values)
    assert {name: source.form for name, source in made.sources.items()} == {
        name: name for name in ("visual", "caption", "text")
    }
    assert made.sources["caption"].kinds == ["detail"]
    assert {name: tuning.mode for name, tuning in made.tunings.items()} == {
        name: name for name in study.MODES
    }


def test_what_is_written_beats_the_label(values: dict) -> None:
    values["sources"]["text"] = {"form": "caption"}
    values["tunings"]["frozen"]["mode"] = "full"
    made = study.load(values)
    assert made.sources["text"].form == "caption"
    assert made.tunings["frozen"].mode == "full"
    assert len(made.cells()[0]) == 24


def test_other_labels_must_say_their_form_and_mode(values: dict) -> None:
    values["sources"]["seen"] = {}
    values["tunings"]["slow"] = values["tunings"].pop("full")
    with pytest.raises(UserError) as error:
        study.load(values)
    assert str(error.value).splitlines() == [
        "sources.seen.form: is missing; it must be given",
        "tunings.slow.mode: is missing; it must be given",
    ]


def test_frozen_without_images_is_pruned_with_the_reason(values: dict) -> None:
    values["seeds"] = [0, 1]
    values["sources"]["seen"] = {"form": "visual", "kinds": ["detail"]}
    values["tunings"]["fixed"] = values["tunings"].pop("frozen") | {"mode": "frozen"}
    kept, pruned = study.load(values).cells()
    assert len(kept) == 2 * (4 * 3 + 2) * 2
    assert {(c.source, c.tuning) for c, _ in pruned} == {("caption", "fixed"), ("text", "fixed")}
    assert len(pruned) == 2 * 2 * 2
    assert {reason for _, reason in pruned} == {"frozen without images: nothing would learn"}
    assert not {tuple(c.model_dump().items()) for c in kept} & {
        tuple(c.model_dump().items()) for c, _ in pruned
    }


def test_micro_paths_lie_in_the_world_that_the_settings_make(values: dict) -> None:
    one = study.load(values)
    assert one.path("micro:images/train") == f"{one.world}/images/train"
    assert one.path("else/where") == "else/where"
    values["micro"]["seed"] = 1
    assert study.load(values).world != one.world


# The schema


def test_the_written_schema_is_what_the_models_say(repository: Path) -> None:
    path = repository / SCHEMA
    written = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    assert written == study.schema(), f"renew it: sight schema --out {SCHEMA}"


def test_the_schema_is_one_and_every_key_is_described() -> None:
    made = study.schema()
    jsonschema.Draft202012Validator.check_schema(made)
    for part in (made, *made["$defs"].values()):
        for key, value in part["properties"].items():
            meant = made["$defs"][value["$ref"].rpartition("/")[2]] if "$ref" in value else value
            told = value.get("description") or meant.get("description")
            assert told, f"{part['title']}.{key} has no description"


def test_the_studies_of_the_repository_are_valid_by_schema_and_models(repository: Path) -> None:
    for path in studies(repository):
        jsonschema.validate(yaml.safe_load(path.read_text(encoding="utf-8")), study.schema())
        study.read(path)


@pytest.mark.parametrize(
    ("place", "value", "valid"),
    [
        (["nmae"], "x", False),
        (["from_cache"], True, True),
        (["from_cache"], "maybe", False),
        (["tunings", "lora", "lora", "rnk"], 3, False),
        (["tunings", "lora", "lora", "rank"], 0, False),
        (["evaluation", "image", "vqa", "x"], 1, False),
        (["evaluation", "image", "vqa", "type"], "vq", False),
        (["sources", "visual"], None, True),
        (["sources", "seen"], {"form": "visual"}, True),
        (["sources", "text", "kinds"], ["detail"], True),
        (["sources", "text", "kinds"], ["details"], False),
        (["bases", "a b"], {"model": "x/y"}, False),
        (["bases", "other"], {"model": "x/y", "template": "chat"}, True),
        (["bases", "other"], {"template": "chat"}, False),
        (["alignment", "learning_rate"], 0, False),
        (["alignment", "warmup"], 1.5, False),
        (["seeds"], [], False),
        (["seeds"], [1, 1], False),
        (["seeds"], [1, 2], True),
    ],
)
def test_schema_and_models_agree(values: dict, place: list[str], value, valid: bool) -> None:
    at = values
    for part in place[:-1]:
        at = at[part]
    at[place[-1]] = value
    assert jsonschema.Draft202012Validator(study.schema()).is_valid(values) == valid
    if values.pop("from_cache", None) is not None:
        return  # the workflow's own key, no part of the models
    if valid:
        study.load(values)
    else:
        with pytest.raises(UserError):
            study.load(values)
