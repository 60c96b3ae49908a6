"""Real training steps of all tunings on a tiny model: what learns, is saved, and comes back."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_runs import LORA, MODES, make_world, run_spec

from sight_beyond_text.errors import UserError
from sight_beyond_text.files import write_json
from sight_beyond_text.models.building import DTYPES, build, load_language_model, load_tokenizer
from sight_beyond_text.models.checkpoints import (
    completed,
    load_tuned,
    load_tuned_language_model,
    verify,
)
from sight_beyond_text.training.modes import set_trainable
from sight_beyond_text.training.train import load_rows, train


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def trained(world):
    """Each tuning, trained for a few steps: its spec and its record."""
    runs = {}
    for mode in MODES:
        rate = {"full": 3e-3, "frozen": 3e-2}.get(mode, 1e-2)
        given = run_spec(world, mode, learning_rate=rate)
        runs[mode] = (given, train(given, world / "runs" / mode / "train.json"))
    return runs


def subject(given: dict) -> dict:
    return {
        "base": given["base"],
        "mode": given["mode"],
        "checkpoint": given["checkpoint"],
        "projector": given["checkpoint"],
        "precision": "fp32",
    }


def base_state(world) -> dict:
    return load_language_model({"model": str(world / "base"), "revision": None}, torch.float32)


@pytest.mark.parametrize("mode", ("align", *MODES))
def test_what_learns(world, mode):
    given = run_spec(world, mode)
    tokenizer = load_tokenizer(given["base"])
    llm = load_language_model(given["base"], torch.float32, four_bit=mode == "qlora")
    if mode in ("lora", "qlora"):
        from peft import LoraConfig, get_peft_model

        get_peft_model(llm, LoraConfig(r=4, target_modules=LORA["targets"]))
    model = build(given["base"], given["tower"], tokenizer, torch.float32, language_model=llm)
    learned = set(set_trainable(model, mode))
    projector = {
        "model.multi_modal_projector.linear.weight",
        "model.multi_modal_projector.linear.bias",
    }
    language = {
        name
        for name, _ in model.named_parameters()
        if name.startswith(("model.language_model.", "lm_head."))
    }
    if mode in ("align", "frozen"):
        assert learned == projector
    elif mode == "full":
        assert learned == projector | language
    else:
        adapters = {name for name in language if ".lora_A." in name or ".lora_B." in name}
        assert len(adapters) == 2 * 2 * len(LORA["targets"])
        assert learned == projector | adapters
        assert not any("embed" in name or "lm_head" in name for name in learned)
    assert not any("vision_tower" in name for name in learned)


@pytest.mark.parametrize("mode", MODES)
def test_only_what_learns_changes_and_all_of_it(world, trained, mode):
    given, record = trained[mode]
    llm, _ = load_tuned_language_model(subject(given))
    base = base_state(world)
    state = dict(base.named_parameters())
    if mode == "frozen":
        for name, tensor in llm.named_parameters():
            assert torch.equal(tensor, state[name]), name
        assert sorted(record["files"]) == ["projector.safetensors"]
    elif mode in ("full", "lora"):
        changed = {n for n, t in llm.named_parameters() if not torch.equal(t, state[n])}
        if mode == "full":
            assert changed == set(state)
        else:
            assert changed == {n for n in state if n.split(".")[-2] in LORA["targets"]}
    if mode != "frozen":  # a random LLM that stays still can't be taught much
        losses = [point["loss"] for point in record["curve"]]
        assert losses[-1] < losses[0]


def test_qlora_is_really_in_four_bits(world, trained):
    import bitsandbytes

    given, _ = trained["qlora"]
    llm, _ = load_tuned_language_model(subject(given))
    layers = [m for m in llm.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    assert len(layers) == 2 * 7
    for layer in layers:
        assert layer.weight.dtype == torch.uint8
        assert layer.weight.quant_state.quant_type == "nf4"
        assert layer.weight.quant_state.nested, "double quantization"
    assert not isinstance(llm.lm_head, bitsandbytes.nn.Linear4bit)


@pytest.mark.parametrize("mode", MODES)
def test_a_checkpoint_comes_back_as_it_was_trained(world, trained, mode):
    """The loss of the reloaded model goes on where the curve ended, far below the fresh one's."""
    from sight_beyond_text.data.samples import Collator, Conversations, Pixels
    from sight_beyond_text.models.building import load_processor, patches_of

    given, record = trained[mode]
    model, tokenizer = load_tuned(subject(given), given["tower"])
    dataset = Conversations(
        load_rows(given),
        tokenizer,
        given["template"],
        model.config.image_token_id,
        patches_of(given["tower"]),
        512,
        Pixels(given["data"]["images"], load_processor(given["tower"])),
    )
    with torch.no_grad():
        loss = model(**Collator(0)([dataset[i] for i in range(len(dataset))])).loss.item()
    losses = [point["loss"] for point in record["curve"]]
    assert loss < losses[0] - 0.5 * (losses[0] - losses[-1])


def test_the_same_seed_gives_the_same_weights(world, trained):
    given = run_spec(world, "lora", checkpoint=str(world / "runs" / "again" / "checkpoint"))
    record = train(given, world / "runs" / "again" / "train.json")
    weights = "adapter/adapter_model.safetensors"
    assert record["files"][weights] == trained["lora"][1]["files"][weights]
    # Another process would hold them in another order, and the record tells of each byte.
    written = json.loads((world / "runs/again/checkpoint/adapter/adapter_config.json").read_text())
    assert written["target_modules"] == sorted(given["lora"]["targets"])


def test_a_finished_run_is_not_trained_again(world, trained):
    given, record = trained["lora"]
    assert completed(given["checkpoint"], given["recipe"]) == record
    assert completed(given["checkpoint"], {"mode": "another"}) is None
    assert train(given, world / "runs" / "lora" / "train.json")["seconds"] == record["seconds"]


def test_a_changed_weight_is_not_believed(world, tmp_path):
    given = run_spec(world, "frozen", checkpoint=str(tmp_path / "checkpoint"))
    train(given, tmp_path / "train.json")
    verify(given["checkpoint"])
    path = tmp_path / "checkpoint" / "projector.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="projector.safetensors"):
        verify(given["checkpoint"])
    assert completed(given["checkpoint"], given["recipe"]) is None


def test_sources_see_the_same_conversations(world):
    rows = {}
    for form in ("visual", "caption", "text"):
        given = run_spec(world, "lora", source={"form": form, "kinds": "all"}, max_samples=7)
        rows[form] = load_rows(given)
    ids = [row["id"] for row in rows["visual"]]
    assert len(ids) == 7
    for form in ("caption", "text"):
        assert [row["id"] for row in rows[form]] == ids
        assert "<image>" not in json.dumps(rows[form])


def test_too_many_lost_samples_stop_a_run_before_it_trains(world, tmp_path):
    given = run_spec(world, "lora", max_length=40, checkpoint=str(tmp_path / "checkpoint"))
    with pytest.raises(UserError, match="12 samples cut at max_length 40"):
        train(given, tmp_path / "train.json")
    assert not (tmp_path / "train.json").exists()


def test_a_loss_that_is_no_number_stops_the_run(world, tmp_path):
    given = run_spec(world, "full", learning_rate=1e30, checkpoint=str(tmp_path / "checkpoint"))
    with pytest.raises(UserError, match="at step"):
        train(given, tmp_path / "train.json")
    assert not (tmp_path / "train.json").exists()


def test_precisions_are_known():
    assert DTYPES == {"fp32": torch.float32, "bf16": torch.bfloat16}


def test_a_broken_loss_names_step_samples_and_the_last_good_checkpoint(world, tmp_path):
    given = run_spec(
        world, "full", learning_rate=1e30, save_steps=1, checkpoint=str(tmp_path / "checkpoint")
    )
    with pytest.raises(UserError) as caught:
        train(given, tmp_path / "train.json")
    told = str(caught.value)
    # The first step warms up, the second ruins the weights, the third shows it.
    assert "at step 3; samples " in told
    points = tmp_path / "checkpoint" / "resume"
    assert f"the last good checkpoint is {points / 'checkpoint-1'};" in told
    assert [point.name for point in points.iterdir()] == ["checkpoint-1"]
    named = told.split("samples ")[1].split(";")[0].split(", ")
    assert len(named) == 4
    assert set(named) <= {str(i) for i in range(12)}
    # The next start goes on from the good one, and comes to the same end.
    with pytest.raises(UserError) as again:
        train(given, tmp_path / "train.json")
    assert str(again.value) == told
    assert [point.name for point in points.iterdir()] == ["checkpoint-1"]


def test_a_first_checkpoint_that_is_ruined_is_not_called_good(world, tmp_path):
    given = run_spec(
        world, "full", learning_rate=1e30, save_steps=2, checkpoint=str(tmp_path / "checkpoint")
    )
    with pytest.raises(UserError, match="at step 3; .*; there is no checkpoint;"):
        train(given, tmp_path / "train.json")
    assert not list((tmp_path / "checkpoint" / "resume").iterdir())


@pytest.mark.parametrize("mode", MODES)
def test_passes_and_checkpointing_change_no_result(world, trained, tmp_path, mode):
    given, record = trained[mode]
    split = run_spec(
        world,
        mode,
        learning_rate=given["training"]["learning_rate"],
        token_budget=60,
        gradient_checkpointing=True,
        checkpoint=str(tmp_path / "checkpoint"),
    )
    again = train(split, tmp_path / "train.json")
    losses = [[point["loss"] for point in made["curve"]] for made in (record, again)]
    assert losses[0] == pytest.approx(losses[1], abs=2e-3)


_WITHOUT_MEMORY = """
import json, resource, sys
import torch
from sight_beyond_text.training import learner, train
spec = json.loads(sys.argv[1])
fit = train._make_it_fit
def limited(*arguments):
    if sys.argv[4] == "after":
        fit(*arguments)
    # From here on: what is taken already, and little more.
    taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + int(sys.argv[2]), -1))
    if sys.argv[4] == "before":
        fit(*arguments)
train._make_it_fit = limited
from sight_beyond_text.session import session
with session():
    train.train(spec, sys.argv[3])
"""


def _limited(
    given: dict, limit: int, record: Path, repository: Path, when: str = "before"
) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", _WITHOUT_MEMORY, json.dumps(given), str(limit), str(record), when],
        env={
            **os.environ,
            "PYTHONPATH": str(repository / "src"),
            "OMP_NUM_THREADS": "1",
            # Each arena sets 64 MiB of addresses aside, and large blocks come back at once.
            "MALLOC_ARENA_MAX": "1",
            "MALLOC_MMAP_THRESHOLD_": "65536",
        },
        capture_output=True,
        text=True,
    )


def test_without_memory_the_run_stops_before_its_first_step(world, tmp_path, repository):
    turns = [
        {"from": "human", "value": "Tell me more."},
        {"from": "gpt", "value": "The sky is wide and blue today. " * 8},
    ]
    rows = [{"id": str(number), "conversations": turns} for number in range(200)]
    write_json(tmp_path / "long.json", rows)
    given = run_spec(
        world,
        "full",
        token_budget=None,
        batch_size=200,
        data={"instructions": str(tmp_path / "long.json"), "images": "-", "captions": None},
        checkpoint=str(tmp_path / "checkpoint"),
    )
    record = tmp_path / "train.json"
    limit = 2**28

    done = _limited(given, limit, record, repository)
    assert done.returncode == 2, done.stderr[-2000:]
    told = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(told) == 1
    assert "out of memory in the largest pass (200 samples" in told[0]
    assert "token_budget" in told[0]
    most, room = re.search(
        r"; at most ([\d,]+) positions a pass are expected to fit in ([\d.]+) GiB with gradient"
        r" checkpointing \(`sight plan`\)$",
        told[0],
    ).groups()
    assert room == "0.25"
    # What is told to fit does, even where half of the room is lost between tensors.
    given["training"] |= {"token_budget": int(most.replace(",", "")) // 2, "epochs": 1}
    assert _limited(given, limit, record, repository).returncode == 0
    assert record.is_file()


def test_memory_that_runs_out_later_is_told_in_one_line(world, tmp_path, repository):
    given = run_spec(world, "full", checkpoint=str(tmp_path / "checkpoint"))
    record = tmp_path / "train.json"
    done = _limited(given, 2**20, record, repository, "after")
    assert done.returncode == 2, done.stderr[-2000:]
    told = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(told) == 1 and "Traceback" not in done.stderr
    assert "out of memory at step 1, though the largest pass had fit" in told[0]
    assert "there is no checkpoint" in told[0] and "token_budget" in told[0]
    assert not record.exists()


def tune(specs: list[dict], repository: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "sight_beyond_text.cli", "tune", "-", "--threads", "1"],
        input="".join(json.dumps(spec) + "\n" for spec in specs),
        env={**os.environ, "PYTHONPATH": str(repository / "src")},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_several_in_one_process_learn_what_each_learns_alone(world, tmp_path, repository):
    def specs(name):
        made = []
        for mode, more in (
            ("full", {"precision": "bf16"}),
            ("qlora", {}),
            ("lora", {"lora": {**LORA, "dropout": 0.3}}),
        ):
            place = tmp_path / name / mode / "checkpoint"
            made.append(run_spec(world, mode, epochs=1, checkpoint=str(place), **more))
        return made

    together, alone = specs("together"), specs("alone")[-1]
    assert tune(together, repository).returncode == tune([alone], repository).returncode == 0
    records = [Path(spec["checkpoint"]).parent / "train.json" for spec in (*together, alone)]
    told = [json.loads(path.read_text()) for path in records]
    assert told[2]["files"] == told[3]["files"]
    assert told[2]["curve"] == told[3]["curve"]
    again = tune(together, repository)
    assert again.stderr.count("is trained already") == 3


def test_several_that_can_not_share_a_process_are_refused(world, repository):
    many = [run_spec(world, mode, processes=2) for mode in ("full", "lora")]
    refused = tune(many, repository)
    assert refused.returncode == 2
    assert "it takes several processes, and a command of its own" in refused.stderr
    assert tune([], repository).stderr.startswith("error: standard input: empty")
