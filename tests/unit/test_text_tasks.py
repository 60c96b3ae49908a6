"""lm-eval's tasks as a study names them: MMLU's groups, and what vLLM is told."""

import json
from collections import Counter

import pytest

from sight_beyond_text.errors import UserError
from sight_beyond_text.evaluation.text_data import mmlu_configurations
from sight_beyond_text.evaluation.vllm_backend import arguments_for

pytest.importorskip("lm_eval")


def test_the_57_subjects_of_mmlu_make_four_groups(tmp_path):
    from sight_beyond_text.evaluation.text_tasks import harness, load_jobs

    folder = tmp_path / "test"
    folder.mkdir()
    subjects = {path.stem.removeprefix("mmlu_") for path in mmlu_configurations().glob("mmlu_*")}
    for name in subjects:
        (folder / f"{name}_test.csv").write_text("Q,a,b,c,d,A\n")
    entry = {"task": None, "path": str(tmp_path), "fewshot": 0, "limit": None}
    with harness():
        jobs = load_jobs({"mmlu": entry}, "current")
    groups = Counter(job.group for job in jobs)
    assert groups == {"stem": 19, "humanities": 13, "social_sciences": 12, "other": 13}


def subject(folder, mode, **changes):
    return {
        "id": "run",
        "base": {"model": "some/base", "revision": "abc"},
        "mode": mode,
        "checkpoint": str(folder),
        "precision": "bf16",
        **changes,
    }


def test_what_vllm_is_told_of_each_mode(tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({"r": 12}))
    base = {
        "pretrained": "some/base",
        "revision": "abc",
        "dtype": "bfloat16",
        "trust_remote_code": False,
    }
    assert arguments_for(subject(tmp_path, None, checkpoint=None)) == base
    assert arguments_for(subject(tmp_path, "frozen")) == base
    adapter = {"lora_local_path": str(tmp_path / "adapter"), "max_lora_rank": 16}
    assert arguments_for(subject(tmp_path, "lora")) == base | adapter
    full = {"pretrained": str(tmp_path / "llm"), "revision": None}
    assert arguments_for(subject(tmp_path, "full")) == base | full


def test_what_vllm_cannot_serve_is_refused(tmp_path):
    with pytest.raises(UserError, match="run: vLLM computes 4-bit bases otherwise"):
        arguments_for(subject(tmp_path, "qlora"))
    (tmp_path / "embeddings.safetensors").touch()
    with pytest.raises(UserError, match="run: vLLM can't take an import's own embeddings"):
        arguments_for(subject(tmp_path, "lora"))


def test_what_the_model_beneath_cuts_is_counted():
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from tiny_llms import byte_tokenizer, tiny

    from sight_beyond_text.evaluation.vllm_backend import CountsCuts

    class Counting(CountsCuts, HFLM):
        pass

    lm = Counting(pretrained=tiny(), tokenizer=byte_tokenizer(), max_length=60)
    pairs = [("x" * 70, " A"), ("x" * 50, " A")]
    lm.loglikelihood([Instance("loglikelihood", {}, pair, 0) for pair in pairs], True)
    texts = [("y" * 60, {"max_gen_toks": 10}), ("y" * 20, {"max_gen_toks": 10})]
    lm.generate_until([Instance("generate_until", {}, text, 0) for text in texts], True)
    # A token <s> comes before each text.
    assert lm.truncated == {pairs[0]: 71 + 2 - 59, ("y" * 60,): 61 - 50}
