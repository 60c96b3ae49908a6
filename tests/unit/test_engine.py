"""lm-eval's model `sight` against its model `hf`, on tiny random models of each family."""

import logging
import random

import numpy as np
import pytest
from tiny_llms import FAMILIES, byte_tokenizer, tiny

torch = pytest.importorskip("torch")
pytest.importorskip("lm_eval")

START = "These words are common to most of what is asked, and long enough to be shared.\n"
CONTEXTS = [f"{START}Question {n}: {'what ' * (n % 5)}?\nAnswer:" for n in range(9)]
CONTEXTS += ["Something else?", "x" * 200, "One more: ", "", f"{START}{'y' * 300}"]
CHOICES = (" A", " B", " much longer", " much long", " A")


@pytest.fixture(autouse=True)
def silent():
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


def asked(kind, arguments):
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, pair, 0) for pair in arguments]


def choices():
    return asked("loglikelihood", [(text, choice) for text in CONTEXTS for choice in CHOICES])


def models(model, tokenizer, **settings):
    from lm_eval.models.huggingface import HFLM

    from sight_beyond_text.evaluation.engine import SightLM

    budget = settings.pop("token_budget", None)
    given = {"pretrained": model, "tokenizer": tokenizer, **settings}
    return HFLM(**given), SightLM(**given, token_budget=budget)


def test_it_is_registered():
    from lm_eval.api.registry import get_model

    from sight_beyond_text.evaluation.engine import SightLM

    assert get_model("sight") is SightLM


@pytest.mark.parametrize("family", FAMILIES)
def test_log_likelihoods_are_those_of_hf(family, tokenizer):
    model = tiny(family)
    requests = choices()
    for length, budgets in ((None, (4096, 64)), (100, (256,))):
        theirs, _ = models(model, tokenizer, batch_size=4, max_length=length)
        expected = theirs.loglikelihood(requests, disable_tqdm=True)
        for budget in budgets:
            _, ours = models(model, tokenizer, max_length=length, token_budget=budget)
            order = list(range(len(requests)))
            random.Random(budget).shuffle(order)
            found = dict(zip(order, ours.loglikelihood([requests[n] for n in order]), strict=True))
            assert ours.shares
            for number, (value, greedy) in enumerate(expected):
                assert found[number][0] == pytest.approx(value, abs=1e-4)
                assert found[number][1] == greedy
            # Most of it is read once for all.
            if length is None:
                assert ours.counts["computed"] < 0.45 * ours.counts["tokens"]


GREEDY = {"until": [], "do_sample": False, "temperature": 0.0, "max_gen_toks": 12}


def generated(model, tokenizer, settings, length, budgets):
    """Texts of hf, one prompt at a time: more have an influence where a stop is a special token."""
    requests = asked("generate_until", [(text, dict(settings)) for text in CONTEXTS[4:12]])
    theirs, _ = models(model, tokenizer, batch_size=1, max_length=length)
    expected = theirs.generate_until(requests, disable_tqdm=True)
    for budget in budgets:
        _, ours = models(model, tokenizer, max_length=length, token_budget=budget)
        assert ours.generate_until(requests, disable_tqdm=True) == expected
    return expected


@pytest.mark.parametrize("family", FAMILIES)
def test_generated_texts_are_those_of_hf(family, tokenizer):
    texts = generated(tiny(family), tokenizer, GREEDY, 8192, (2048, 100))
    assert len(set(texts)) > 2


def test_texts_end_at_their_stops(tokenizer):
    model = tiny()
    letters = set("".join(generated(model, tokenizer, GREEDY, 8192, (2048,))))
    stops = sorted(letter for letter in letters if letter.isprintable())[:6]
    settings = {**GREEDY, "until": [*stops, "zz"]}
    texts = generated(model, tokenizer, settings, 8192, (2048, 100))
    assert len(set(map(len, texts))) > 2


def test_long_prompts_are_cut_as_hf_cuts_them(tokenizer):
    generated(tiny(), tokenizer, GREEDY, 100, (2048, 100))


def test_prompts_that_fit_into_the_budget_go_on_together_however_long_their_answers(tokenizer):
    model, prompts, length = tiny(), CONTEXTS[:8], 150
    longest = max(len(tokenizer(prompt)["input_ids"]) for prompt in prompts)
    _, ours = models(model, tokenizer, token_budget=len(prompts) * longest)
    settings = {**GREEDY, "max_gen_toks": length}
    passes = []
    with model.register_forward_hook(lambda *_: passes.append(1)):
        ours.generate_until(asked("generate_until", [(text, settings) for text in prompts]), True)
    # One gives the first token of each; the others read the common start, and try the model out.
    assert length <= len(passes) < length + 10


def test_the_end_token_ends_a_text(tokenizer):
    model = tiny()
    # A head that says the end token often.
    with torch.no_grad():
        model.lm_head.weight[2] *= 4
    requests = asked("generate_until", [(text, {"max_gen_toks": 30}) for text in CONTEXTS[:6]])
    theirs, ours = models(model, tokenizer, batch_size=1)
    expected = theirs.generate_until(requests, disable_tqdm=True)
    assert any(len(text) < 20 for text in expected)
    assert ours.generate_until(requests, disable_tqdm=True) == expected


def test_sampling_and_penalties_are_left_to_hf(tokenizer):
    model = tiny()
    theirs, ours = models(model, tokenizer, batch_size=2)
    requests = asked("generate_until", [(CONTEXTS[0], {"max_gen_toks": 8, "num_beams": 2})])
    expected = theirs.generate_until(requests, disable_tqdm=True)
    assert ours.generate_until(requests, disable_tqdm=True) == expected
    assert ours.counts["computed"] == 0
    model.generation_config.repetition_penalty = 1.5
    requests = asked("generate_until", [(CONTEXTS[0], {"max_gen_toks": 8})])
    expected = theirs.generate_until(requests, disable_tqdm=True)
    assert ours.generate_until(requests, disable_tqdm=True) == expected
    assert ours.counts["computed"] == 0


def test_models_that_cannot_share_are_read_as_hf_reads_them(tokenizer, caplog):
    theirs, ours = models(bloom(), tokenizer, batch_size=4)
    requests = choices()[:20]
    found = ours.loglikelihood(requests)
    assert not ours.shares
    assert found == theirs.loglikelihood(requests, disable_tqdm=True)
    assert "starts can't be shared" in caplog.text


@pytest.mark.parametrize("merged", [False, True])
def test_adapters_merged_or_not(merged, tokenizer):
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    torch.manual_seed(1)
    model = get_peft_model(tiny(), settings)
    model = model.merge_and_unload() if merged else model
    theirs, ours = models(model.eval(), tokenizer, batch_size=4)
    requests = choices()
    found, expected = ours.loglikelihood(requests), theirs.loglikelihood(requests, True)
    assert ours.shares
    assert [v for v, _ in found] == pytest.approx([v for v, _ in expected], abs=1e-4)


def test_bases_in_four_bits(tokenizer, tmp_path):
    pytest.importorskip("bitsandbytes")
    from sight_beyond_text.models.building import load_language_model

    tiny(hidden_size=64, intermediate_size=128).save_pretrained(tmp_path)
    spec = {"model": str(tmp_path), "revision": None}
    model = load_language_model(spec, torch.float32, four_bit=True).eval()
    theirs, ours = models(model, tokenizer, batch_size=4)
    requests = choices()
    found, expected = ours.loglikelihood(requests), theirs.loglikelihood(requests, True)
    assert ours.shares
    assert [v for v, _ in found] == pytest.approx([v for v, _ in expected], abs=1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_in_bfloat16_it_is_as_near_to_hf_as_hf_is_to_itself(family, tokenizer):
    settings = {"initializer_range": 0.1, "num_hidden_layers": 4}
    model = tiny(family, **settings).to(torch.bfloat16)
    exact = tiny(family, **settings)
    exact.load_state_dict({k: v.float() for k, v in model.state_dict().items()})
    requests = choices()

    def found(lm):
        return np.array([value for value, _ in lm.loglikelihood(requests, True)])

    # Probabilities in float32 as ours: in bfloat16 they have steps of a sixteenth at -10 nats.
    given = {"softmax_dtype": "float32"}
    theirs = [found(models(model, tokenizer, batch_size=b, **given)[0]) for b in (1, 8, 32)]
    ours = found(models(model, tokenizer)[1])
    truth = found(models(exact, tokenizer, batch_size=4)[0])
    apart = [np.abs(theirs[0] - other) for other in theirs[1:]]
    difference = np.abs(ours - theirs[0])
    # Rounding falls otherwise on other CPUs: on some the two are the same but for a thousandth.
    assert difference.max() <= 1.1 * max(each.max() for each in apart)
    assert difference.mean() <= 1.1 * max(each.mean() for each in apart)
    assert np.abs(ours - truth).mean() < 1.2 * np.abs(theirs[0] - truth).mean()


def small_memory(model, tokens):
    """The model on a device where a pass of more tokens doesn't fit."""
    forward = model.forward

    def refuse(input_ids, **settings):
        if input_ids.numel() > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return forward(input_ids=input_ids, **settings)

    model.forward = refuse
    return model


def test_where_memory_runs_out_the_budget_is_halved(tokenizer, caplog):
    requests = choices()
    theirs, _ = models(tiny(), tokenizer, batch_size=4)
    expected = theirs.loglikelihood(requests, True)
    _, ours = models(small_memory(tiny(), 300), tokenizer, token_budget=2048)
    found = ours.loglikelihood(requests)
    assert [v for v, _ in found] == pytest.approx([v for v, _ in expected], abs=1e-4)
    assert ours.token_budget == 256
    assert caplog.text.count("out of memory; going on") == 3
    texts = asked("generate_until", [(text, {"max_gen_toks": 8}) for text in CONTEXTS[:9]])
    expected = theirs.generate_until(texts, True)
    _, ours = models(small_memory(tiny(), 300), tokenizer, token_budget=2048)
    assert ours.generate_until(texts, True) == expected


def test_where_it_never_fits_it_is_told_in_one_line(tokenizer):
    from sight_beyond_text.errors import UserError

    _, ours = models(small_memory(tiny(), 20), tokenizer, token_budget=256)
    with pytest.raises(UserError, match="out of memory with 64 tokens a pass") as error:
        ours.loglikelihood(choices())
    assert "\n" not in str(error.value)


def bloom():
    """A model whose starts can't be shared."""
    from transformers import BloomConfig, BloomForCausalLM

    torch.manual_seed(0)
    config = BloomConfig(vocab_size=259, hidden_size=32, n_layer=2, n_head=2)
    return BloomForCausalLM(config).eval()


def test_where_memory_runs_out_and_nothing_is_shared_the_batch_is_halved(tokenizer, caplog):
    from sight_beyond_text.errors import UserError

    requests = [*choices()[:10], *choices()[50:60]]
    theirs, _ = models(bloom(), tokenizer, batch_size=4)
    expected = theirs.loglikelihood(requests, True)
    _, ours = models(small_memory(bloom(), 900), tokenizer, batch_size=16)
    found = ours.loglikelihood(requests, True)
    assert not ours.shares and 1 <= ours.batch_size < 16
    assert [v for v, _ in found] == pytest.approx([v for v, _ in expected], abs=1e-4)
    assert "out of memory; going on with 8 rows a batch" in caplog.text
    texts = asked("generate_until", [(text, {"max_gen_toks": 4}) for text in CONTEXTS[:6]])
    _, ours = models(small_memory(bloom(), 300), tokenizer, batch_size=16)
    assert ours.generate_until(texts, True) == theirs.generate_until(texts, True)
    _, ours = models(small_memory(bloom(), 20), tokenizer, batch_size=4)
    with pytest.raises(UserError, match="out of memory with one row a batch"):
        ours.loglikelihood(requests, True)


def test_choices_have_a_bar_unless_it_is_unwanted(tokenizer, capsys):
    _, ours = models(tiny(), tokenizer)
    ours.loglikelihood(choices()[:4], disable_tqdm=True)
    assert "choices" not in capsys.readouterr().err
    ours.loglikelihood(choices()[:4])
    assert "choices: 100%" in capsys.readouterr().err


def test_what_is_cut_is_counted(tokenizer):
    _, ours = models(tiny(), tokenizer, max_length=100)
    requests = asked("loglikelihood", [("x" * 150, " A"), ("x" * 97, " A"), ("x" * 99, " A")])
    ours.loglikelihood(requests)
    # <s>, the context and one of the choice's two bytes are read; 100 of them fit.
    assert ours.truncated == {("x" * 150, " A"): 52, ("x" * 99, " A"): 1}
    ours.generate_until(asked("generate_until", [("x" * 120, {"max_gen_toks": 10})]), True)
    assert ours.truncated[("x" * 120,)] == 31


def test_what_hf_cuts_is_counted_too(tokenizer):
    _, ours = models(bloom(), tokenizer, max_length=100)
    ours.loglikelihood(asked("loglikelihood", [("x" * 150, " A"), ("x" * 97, " A")]))
    sampled = {"max_gen_toks": 10, "do_sample": True, "temperature": 0.5}
    ours.generate_until(asked("generate_until", [("x" * 120, sampled)]), True)
    assert ours.truncated == {("x" * 150, " A"): 52, ("x" * 120,): 31}


def test_choices_longer_than_the_model_are_refused(tokenizer):
    from sight_beyond_text.errors import UserError

    _, ours = models(tiny(), tokenizer, max_length=20)
    with pytest.raises(UserError, match="a choice of 30 tokens is longer than the model's 20"):
        ours.loglikelihood(asked("loglikelihood", [("x", "y" * 30)]))
    with pytest.raises(UserError, match="answers of 64 tokens don't fit"):
        ours.generate_until(asked("generate_until", [("x", {"max_gen_toks": 64})]))


def test_rolling_log_likelihoods(tokenizer):
    theirs, ours = models(tiny(), tokenizer, batch_size=4, max_length=64)
    requests = asked("loglikelihood_rolling", [(text,) for text in CONTEXTS if text])
    expected = theirs.loglikelihood_rolling(requests, disable_tqdm=True)
    assert ours.loglikelihood_rolling(requests, disable_tqdm=True) == pytest.approx(
        expected, rel=1e-5
    )
