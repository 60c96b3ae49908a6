"""The engine on real questions: many shapes of each family, adapters, 4 bits, batches, orders."""

import random

import numpy as np
import pytest
from tiny_llms import FAMILIES, byte_tokenizer, tiny

torch = pytest.importorskip("torch")
pytest.importorskip("lm_eval")

pytestmark = pytest.mark.parity

ITEMS = {
    "truthfulqa_mc1": 1,
    "truthfulqa_mc2": 1,
    "ethics_cm": 2,
    "ethics_virtue": 5,
    "ethics_deontology": 4,
    "mmlu": 1,
}
SUBJECTS = ("college_physics", "sociology")
FOLDERS = {"truthfulqa": "truthfulqa", "ethics": "ethics"}

SHAPES = {
    "llama": [
        {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 6},
        {"num_key_value_heads": 1, "num_hidden_layers": 3, "tie_word_embeddings": True},
    ],
    "mistral": [
        {"sliding_window": 7, "num_key_value_heads": 4},
        {"sliding_window": None, "hidden_size": 64, "num_attention_heads": 8},
    ],
    "qwen2": [
        {"hidden_size": 64, "num_attention_heads": 8, "num_key_value_heads": 1},
        {
            "use_sliding_window": True,
            "sliding_window": 200,
            "max_window_layers": 2,
            "num_hidden_layers": 4,
        },
    ],
    "qwen3": [
        {"head_dim": 16, "num_key_value_heads": 4},
        {"hidden_size": 64, "num_key_value_heads": 1, "num_hidden_layers": 3},
    ],
    "gemma": [
        {"head_dim": 16, "num_key_value_heads": 1},
        {"hidden_size": 48, "num_attention_heads": 3, "num_key_value_heads": 3},
    ],
    "gemma2": [
        {"sliding_window": 9, "num_hidden_layers": 4, "num_key_value_heads": 1},
        {"sliding_window": 300, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
    ],
    "gemma3": [
        {
            "sliding_window": 9,
            "num_hidden_layers": 6,
            "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
        },
        {"sliding_window": 300, "head_dim": 16, "num_key_value_heads": 4},
    ],
}
"""Besides those of `FAMILIES`: widths, heads, layers, windows longer and shorter than questions."""


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture(scope="module")
def asked(shared_data, tmp_path_factory):
    """Requests for the likelihoods of real questions' choices, as lm-eval's tasks make them."""
    from sight_beyond_text.evaluation.text_tasks import FEWSHOT_SEED, harness, load_jobs

    mmlu = tmp_path_factory.mktemp("mmlu")
    for split in ("dev", "test"):
        (mmlu / split).mkdir()
        for subject in SUBJECTS:
            name = f"{split}/{subject}_{split}.csv"
            (mmlu / name).symlink_to(shared_data / "mmlu" / name)
    entries = {}
    for name, limit in ITEMS.items():
        folder = FOLDERS.get(name.partition("_")[0])
        path = str(shared_data / folder if folder else mmlu)
        shots = 2 if name == "mmlu" else None
        entries[name] = {"task": None, "path": path, "fewshot": shots, "limit": limit}
    with harness():
        jobs = load_jobs(entries, "current")
        for job in jobs:
            job.built.set_fewshot_seed(FEWSHOT_SEED)
            job.built.build_all_requests(limit=job.limit)
    return [request for job in jobs for request in job.built.instances]


def of_hf(model, tokenizer, requests, batch_size=8, **settings):
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, **settings)
    return np.array([value for value, _ in lm.loglikelihood(requests, disable_tqdm=True)])


def of_sight(model, tokenizer, requests, **settings):
    from sight_beyond_text.evaluation.engine import SightLM

    lm = SightLM(pretrained=model, tokenizer=tokenizer, **settings)
    found = np.array([value for value, _ in lm.loglikelihood(requests, disable_tqdm=True)])
    assert lm.shares and lm.counts["computed"] < lm.counts["tokens"]
    return found


def is_same(model, tokenizer, requests):
    ours = of_sight(model, tokenizer, requests, token_budget=1500)
    return np.abs(ours - of_hf(model, tokenizer, requests)).max() < 1e-4


@pytest.mark.parametrize("family", SHAPES)
def test_shapes_of_each_family_on_real_questions(family, tokenizer, asked):
    # Some ask for the whole of it; here every other question is enough.
    assert is_same(tiny(family, **SHAPES[family][0]), tokenizer, asked[::2])


@pytest.mark.slow
@pytest.mark.parametrize("family", SHAPES)
def test_more_shapes_of_each_family_on_real_questions(family, tokenizer, asked):
    for shape in SHAPES[family]:
        assert is_same(tiny(family, seed=1, **shape), tokenizer, asked)


@pytest.mark.parametrize("family", ["mistral", "gemma2"])
def test_any_batch_and_any_order_of_real_questions(family, tokenizer, asked):
    model = tiny(family, **SHAPES[family][0])
    requests = asked[::2]
    expected = of_hf(model, tokenizer, requests)
    order = list(range(len(requests)))
    random.Random(0).shuffle(order)
    shuffled = [requests[number] for number in order]
    for budget in (128, 4096):
        found = of_sight(model, tokenizer, shuffled, token_budget=budget)
        assert np.abs(found - expected[order]).max() < 1e-4, budget


def adapted(model, merged=False):
    from peft import LoraConfig, get_peft_model

    targets = ["q_proj", "v_proj", "down_proj"]
    settings = LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
    torch.manual_seed(1)
    model = get_peft_model(model, settings)
    return (model.merge_and_unload() if merged else model).eval()


@pytest.mark.parametrize(("family", "merged"), [("mistral", False), ("qwen3", True)])
def test_adapters_on_real_questions(family, merged, tokenizer, asked):
    base = tiny(family)
    model = adapted(base, merged)
    assert is_same(model, tokenizer, asked[::2])


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_bases_in_four_bits_and_their_adapters_on_real_questions(
    family, tokenizer, asked, tmp_path
):
    pytest.importorskip("bitsandbytes")
    from sight_beyond_text.models.building import load_language_model

    tiny(family, hidden_size=64, intermediate_size=128).save_pretrained(tmp_path)
    spec = {"model": str(tmp_path), "revision": None}
    base = load_language_model(spec, torch.float32, four_bit=True).eval()
    assert is_same(base, tokenizer, asked[::3])
    assert is_same(adapted(base), tokenizer, asked[::3])


@pytest.mark.slow
def test_in_bfloat16_real_questions_differ_no_more_than_between_two_batch_sizes(tokenizer, asked):
    requests, settings = asked[::2], {"softmax_dtype": "float32"}
    batches, ours = [], {1: [], 8: []}
    for family in ("llama", "mistral", "qwen3", "gemma3"):
        for seed in (0, 1):
            for shape in ({}, SHAPES[family][0]):
                model = tiny(family, seed=seed, **shape).to(torch.bfloat16)
                theirs = {
                    size: of_hf(model, tokenizer, requests, size, **settings) for size in ours
                }
                found = of_sight(model, tokenizer, requests)
                batches.append(np.abs(theirs[1] - theirs[8]))
                for size, expected in theirs.items():
                    ours[size].append(np.abs(found - expected))
    # Of a single model either may be nearer, as its sums happen to be rounded: all count together.
    between = np.concatenate(batches)
    near, far = sorted(np.concatenate(each).mean() for each in ours.values())
    print(f"hf {between.mean():.5f} (at most {between.max():.5f}), ours {near:.5f}, {far:.5f}")
    assert 0 < near <= between.mean()
    assert far <= 1.1 * between.mean()


def test_every_family_is_here():
    assert set(SHAPES) == set(FAMILIES) - {"qwen2_sliding"}
