"""`sight lm-eval`: one command line of lm-eval's, offline on local files, with either model."""

import json
import os
import subprocess
import sys

import pytest
from tiny_llms import byte_tokenizer, tiny

pytest.importorskip("torch")
pytest.importorskip("lm_eval")

TASKS = {
    "truthfulqa_mc1": ("truthfulqa", "truthfulqa/truthfulqa_mc1.yaml", "validation", 6),
    "truthfulqa_mc2": ("truthfulqa", "truthfulqa/truthfulqa_mc2.yaml", "validation", 6),
    "ethics_virtue": ("ethics", "hendrycks_ethics/virtue.yaml", "test", 10),
    "gsm8k": ("gsm8k", "gsm8k/gsm8k.yaml", "test", 2),
}
"""Folder of the published files, lm-eval's own configuration, split and number of questions."""


def command(*arguments, folder):
    environment = {**os.environ, "HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return subprocess.run(
        [sys.executable, "-m", "sight_beyond_text.cli", "lm-eval", *map(str, arguments)],
        capture_output=True, text=True, cwd=folder, env=environment, timeout=240,
    )  # fmt: skip


def write_tasks(shared_data, folder):
    """lm-eval's own tasks on local files, in the way that lm-eval itself knows for that."""
    from sight_beyond_text.evaluation.text_data import mmlu_configurations, read_benchmark

    (folder / "tasks").mkdir()
    for task, (name, configuration, split, number) in TASKS.items():
        entry = {"path": str(shared_data / name), "fewshot": 2 if task == "gsm8k" else 0}
        splits = {k: rows for k, rows in read_benchmark(task, entry)[task].items() if rows}
        splits[split] = splits[split][:number]
        files = {}
        for part, rows in splits.items():
            files[part] = str(folder / "tasks" / f"{task}-{part}.jsonl")
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / "tasks" / f"{task}-{part}.jsonl").write_text(lines)
        local = {
            "include": str(mmlu_configurations().parents[1] / configuration),
            "task": f"{task}_local",
            "tag": None,
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": files},
        }
        if "train" not in splits:
            local |= {"training_split": None, "fewshot_split": split}
        (folder / "tasks" / f"{task}.yaml").write_text(json.dumps(local))


@pytest.mark.slow
def test_the_same_command_line_gives_the_same_aggregates(shared_data, tmp_path):
    byte_tokenizer().save_pretrained(tmp_path / "model")
    tiny().save_pretrained(tmp_path / "model")
    write_tasks(shared_data, tmp_path)
    found, samples = {}, {}
    for model in ("hf", "sight"):
        done = command(
            "run", "--model", model, "--model_args", f"pretrained={tmp_path / 'model'}",
            "dtype=float32", "--tasks", *(f"{task}_local" for task in TASKS),
            "--include_path", "tasks", "--num_fewshot", "2", "--device", "cpu",
            "--batch_size", "1", "--output_path", model, "--log_samples",
            "--gen_kwargs", "max_gen_toks=40", folder=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        (file,) = (tmp_path / model).rglob("results_*.json")
        found[model] = json.loads(file.read_text())["results"]
        lines = [
            json.loads(line)
            for file in sorted((tmp_path / model).rglob("samples_*.jsonl"))
            for line in file.read_text().splitlines()
        ]
        samples[model] = [response[0] for line in lines for response in line["resps"]]
    assert set(found["hf"]) == {f"{task}_local" for task in TASKS}
    for task, metrics in found["hf"].items():
        numbers = {k: v for k, v in metrics.items() if isinstance(v, float)}
        assert numbers
        for metric, value in numbers.items():
            assert found["sight"][task][metric] == pytest.approx(value, abs=1e-6, nan_ok=True)
    assert len(samples["hf"]) == len(samples["sight"]) > 100
    for theirs, ours in zip(samples["hf"], samples["sight"], strict=True):
        if isinstance(theirs, str):
            assert ours == theirs
        else:
            assert float(ours[0]) == pytest.approx(float(theirs[0]), abs=1e-4)
            assert str(ours[1]) == str(theirs[1])


def test_its_own_help_and_errors_are_shown(tmp_path):
    assert "validate" in command("--help", folder=tmp_path).stdout
    done = command("run", "--model", "no_such_model", "--tasks", "boolq", folder=tmp_path)
    assert done.returncode != 0
    assert "no_such_model" in done.stderr or "boolq" in done.stderr
