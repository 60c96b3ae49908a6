"""Several processes compute what one does."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import make_world, run_spec

from sight_beyond_text.models.building import build, load_tokenizer
from sight_beyond_text.training.train import _fsdp, train


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def tune(spec: dict, folder) -> subprocess.CompletedProcess:
    record, log = folder / "train.json", folder / "tune.log"
    options = ["--record", str(record), "--log", str(log), "--threads", "1"]
    return subprocess.run(
        [sys.executable, "-m", "sight_beyond_text.cli", "tune", json.dumps(spec), *options],
        env={**os.environ, "PYTHONPATH": "src", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


SLOW = pytest.mark.slow
CASES = [
    pytest.param("full", False, "fp32", marks=SLOW),
    ("qlora", False, "fp32"),
    pytest.param("full", True, "fp32", marks=SLOW),
    pytest.param("full", True, "bf16", marks=SLOW),
    pytest.param("lora", True, "bf16", marks=SLOW),
]


@pytest.mark.parametrize(("mode", "fsdp", "precision"), CASES)
def test_two_processes_give_the_losses_of_one(
    world, tmp_path, mode, fsdp, precision, repository, monkeypatch
):
    monkeypatch.chdir(repository)
    stage = {"stage": "align", "template": "plain"} if mode == "align" else {}
    curves, weights = [], []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        spec = run_spec(
            world,
            mode,
            # 12 samples in steps of 5: shares differ in size, the last step gives one process none.
            batch_size=5,
            epochs=3,
            token_budget=150,
            learning_rate=3e-3,
            processes=processes,
            fsdp=fsdp and processes > 1,
            precision=precision,
            checkpoint=str(folder / "checkpoint"),
            **stage,
        )
        if processes == 1:
            train(spec, folder / "train.json")
        else:
            done = tune(spec, folder)
            assert done.returncode == 0, done.stderr
            # Two layers of the LLM and of the tower, the tower's embeddings, and the rest.
            told = (folder / "tune.log").read_text()
            spread = "weights were spread over 2 processes, in 6 parts" in told
            assert spread == fsdp, told
        record = json.loads((folder / "train.json").read_text())
        assert record["processes"] == processes
        curves.append([point["loss"] for point in record["curve"]])
        files = sorted((folder / "checkpoint").rglob("*.safetensors"))
        tensors = {(file.name, n): t for file in files for n, t in load_file(file).items()}
        weights.append(tensors)
    # Sums in another order, then nine steps of AdamW.
    assert curves[0] == pytest.approx(curves[1], abs=1e-4 if precision == "fp32" else 2e-3)
    assert weights[0].keys() == weights[1].keys()
    if precision == "bf16":
        return
    for (file, name), tensor in weights[0].items():
        if file == "projector.safetensors":
            again = weights[1][file, name]
            torch.testing.assert_close(tensor, again, atol=1e-4, rtol=1e-3)


def test_fsdp_gathers_the_layers_of_every_part_one_at_a_time(world):
    given = run_spec(world, "full")
    tokenizer = load_tokenizer(given["base"])
    made = _fsdp(build(given["base"], given["tower"], tokenizer, torch.float32))
    layers = ["LlamaDecoderLayer", "CLIPEncoderLayer", "CLIPVisionEmbeddings"]
    assert made == {"version": 2, "transformer_layer_cls_to_wrap": layers}


def test_an_error_of_several_processes_is_told_once(world, tmp_path, repository, monkeypatch):
    monkeypatch.chdir(repository)
    spec = run_spec(world, "lora", max_length=20, processes=2, checkpoint=str(tmp_path / "c"))
    done = tune(spec, tmp_path)
    assert done.returncode == 2
    told = [line for line in done.stderr.splitlines() if "max_length" in line]
    assert len(told) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "train.json").exists()


def test_a_killed_launcher_leaves_no_process_behind(world, tmp_path, repository, monkeypatch):
    monkeypatch.chdir(repository)
    spec = run_spec(
        world, "frozen", epochs=500, processes=2, save_steps=1, checkpoint=str(tmp_path / "c")
    )
    options = ["--record", str(tmp_path / "train.json"), "--log", str(tmp_path / "tune.log")]
    launcher = subprocess.Popen(
        [sys.executable, "-m", "sight_beyond_text.cli", "tune", json.dumps(spec), *options],
        env={**os.environ, "PYTHONPATH": "src", "OMP_NUM_THREADS": "1"},
    )

    def running() -> int:
        """How many processes know of this training."""
        known = 0
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                known += str(tmp_path).encode() in path.read_bytes()
        return known

    def wait(condition) -> None:
        until = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < until, (tmp_path / "tune.log").read_text()
            time.sleep(0.1)

    try:
        wait(lambda: list(tmp_path.glob("c/resume/*/resume.json")))
        assert running() >= 3
    finally:
        launcher.kill()
        launcher.wait()
    wait(lambda: running() == 0)
