"""Answers about images: what is shared changes none of them, nor do batches, order or chance."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import LLM, SIDE, make_base, make_tower
from transformers import Gemma2Config, Gemma3TextConfig, LlamaConfig, MistralConfig, Qwen2Config

from sight_beyond_text.data.samples import Pixels
from sight_beyond_text.errors import UserError
from sight_beyond_text.evaluation import image_answers
from sight_beyond_text.evaluation.answers import Sampling, cut, endings, prompt_ids
from sight_beyond_text.evaluation.image_answers import ImageAnswers, Seen
from sight_beyond_text.micro.tokenizer import train_tokenizer
from sight_beyond_text.models.building import build, load_processor, load_tokenizer

LIMIT = 12
TEXTS = (
    "Is there a circle?",
    "Is there a red square in the image?",
    "What?",
    "How many are there, and why?",
)
APART, WINDOW = {"tie_word_embeddings": False}, {"sliding_window": 24}
SIZES = {**LLM, "max_position_embeddings": 512}
FAMILIES = {
    "llama": lambda: LlamaConfig(**SIZES, **APART),
    "mistral": lambda: MistralConfig(**SIZES, **WINDOW, **APART),
    "qwen2": lambda: Qwen2Config(
        **SIZES, **APART, **WINDOW, use_sliding_window=True, max_window_layers=1
    ),
    "gemma2": lambda: Gemma2Config(
        **SIZES, **WINDOW, **APART, head_dim=16, final_logit_softcapping=2.0
    ),
    "gemma3": lambda: Gemma3TextConfig(**SIZES, **WINDOW, **APART, head_dim=16),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("parts")
    (made / "images").mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(made / "images" / f"{number}.png")
    return made


def model_of(folder, config):
    torch.manual_seed(0)
    tokenizer = train_tokenizer(list(TEXTS) * 3, 300)
    base = make_base(folder / type(config).__name__, tokenizer, config)
    tower = make_tower(folder / "tower")
    tokenizer = load_tokenizer(base)
    model = build(base, tower, tokenizer, torch.float32)
    with torch.no_grad():
        # Else what random weights make of an image is too faint to change an answer.
        model.model.multi_modal_projector.linear.weight *= 20
    return model, tokenizer, Pixels(folder / "images", load_processor(tower))


@pytest.fixture(scope="module")
def parts(folder):
    return model_of(folder, FAMILIES["llama"]())


def asked(count=18):
    rng = random.Random(0)
    return [
        {"image": f"{number % 6}.png", "prompt": f"{rng.choice(TEXTS)} {number // 6}"}
        for number in range(count)
    ]


def answered(parts, questions, rows, choose=None, budget=None, shares=True, template="v1"):
    model, tokenizer, pixels = parts
    seen = Seen(model)
    answering = ImageAnswers(model, tokenizer, template, rows, budget=budget)
    assert answering.shares
    answering.shares = shares
    more = {} if choose is None else {"choose": choose}
    found = dict(answering.answers(questions, lambda names: seen(pixels, names), LIMIT, **more))
    return [found[number] for number in range(len(questions))]


@torch.no_grad()
def alone(parts, question, template="v1"):
    """The answer of transformers to one question, from pixels, without anything shared."""
    model, tokenizer, pixels = parts
    stops, ends = endings(template, tokenizer)
    image = model.config.image_token_id
    ids = prompt_ids([(f"<image>\n{question['prompt']}", "")], template, tokenizer, image, 9)
    made = model.generate(
        input_ids=torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        pixel_values=pixels(question["image"])[None],
        max_new_tokens=LIMIT,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=2,
    )
    return cut(tokenizer.decode(made[0, len(ids) :]), stops)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("template", ["v1", "v0"])
def test_answers_are_those_of_transformers_one_at_a_time(folder, family, template):
    parts = model_of(folder, FAMILIES[family]())
    questions = asked()
    expected = [alone(parts, question, template) for question in questions]
    assert len(set(expected)) > 12, "images and questions matter"
    for rows, budget, shares in ((16, None, True), (4, 64, True), (5, None, False)):
        found = answered(parts, questions, rows, None, budget, shares, template)
        assert found == expected, (rows, budget, shares)


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("drawn", [False, True])
def test_batch_size_and_order_change_nothing(parts, drawn, shares):
    questions = asked()
    order = list(range(len(questions)))
    random.Random(1).shuffle(order)

    def run(rows, order):
        chosen = [questions[number] for number in order]
        names = [f"{question['image']} {question['prompt']}" for question in chosen]
        found = answered(parts, chosen, rows, Sampling(names, 2.0) if drawn else None, None, shares)
        return dict(zip(order, found, strict=True))

    expected = run(1, sorted(order))
    assert run(16, sorted(order)) == expected
    assert run(16, order) == expected
    assert run(1, order) == expected
    assert len(set(expected.values())) > 12


def test_a_question_asked_twice_is_answered_twice(parts):
    question = asked(1)[0]
    found = answered(parts, [question] * 5, 4)
    assert len(found) == 5 and len(set(found)) == 1
    drawn = answered(parts, [question] * 5, 4, Sampling([str(n) for n in range(5)], 3.0))
    assert len(set(drawn)) > 1, "each has luck of its own"
    again = answered(parts, [question] * 5, 4, Sampling([str(n) for n in (3, 1, 4, 0, 2)], 3.0))
    assert again == [drawn[n] for n in (3, 1, 4, 0, 2)]


def test_each_image_goes_through_the_tower_once(parts):
    model, tokenizer, pixels = parts
    read = []
    hook = model.model.vision_tower.register_forward_hook(
        lambda module, given, made: read.append(len(given[0]))
    )
    try:
        questions = asked()
        answered(parts, questions, 16)
        assert sum(read) == 6
        answered(parts, questions, 16, None, 64)
        assert sum(read) == 12
        read.clear()
        seen = Seen(model)
        answering = ImageAnswers(model, tokenizer, "v1", 8)
        for _ in range(2):  # another benchmark about the same images
            list(answering.answers(questions, lambda names: seen(pixels, names), LIMIT))
        assert sum(read) == 6
        bytes_of_one = seen(pixels, ["0.png"]).nbytes
        seen = Seen(model, room=2 * bytes_of_one)
        for name in ("0.png", "1.png", "2.png", "0.png"):
            seen(pixels, [name])
        assert sum(read) == 6 + 4 and len(seen.kept) == 2
    finally:
        hook.remove()


def test_the_language_model_reads_each_image_once(parts):
    model, tokenizer, pixels = parts
    read = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, given, more: read.append(more["inputs_embeds"].shape[:2].numel()),
        with_kwargs=True,
    )
    try:
        questions = asked()
        answered(parts, questions, 16)
        shared = sum(read)
        read.clear()
        answered(parts, questions, 16, None, None, False)
        assert shared < sum(read) - 12 * 9, "two questions of three find their image read"
    finally:
        hook.remove()


def test_what_memory_is_too_small_for_is_read_in_smaller_passes(parts, monkeypatch):
    model, tokenizer, pixels = parts
    questions = asked()
    expected = answered(parts, questions, 16)

    def exhausted(module, given, more):
        if more["inputs_embeds"].shape[1] > 100:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    hook = model.model.language_model.register_forward_pre_hook(exhausted, with_kwargs=True)
    try:
        assert answered(parts, questions, 16) == expected
        monkeypatch.setattr(image_answers, "SMALLEST_BUDGET", 128)
        with pytest.raises(UserError, match="out of memory with 128 positions a pass"):
            answered(parts, questions, 16)
    finally:
        hook.remove()


def test_stop_strings_are_stripped(parts):
    _, tokenizer, _ = parts
    said = tokenizer(" No\n###never", add_special_tokens=False)["input_ids"]

    def forced(numbers, steps, logits):
        return [said[step] for step in steps]

    for shares in (True, False):
        assert answered(parts, asked(3), 2, forced, None, shares, "v0") == ["No"] * 3


def test_a_prompt_that_is_too_long_is_refused(parts):
    question = {"image": "0.png", "prompt": "Is there a circle? " * 200}
    with pytest.raises(UserError, match="positions and an answer of 12 tokens don't fit into the"):
        answered(parts, [question], 1)


def test_a_text_may_hold_the_token_that_stands_for_images(parts):
    model, tokenizer, _ = parts
    spare = tokenizer.convert_ids_to_tokens([model.config.image_token_id])[0]
    question = {"image": "0.png", "prompt": f"Is there {spare}?"}
    assert answered(parts, [question], 1) == answered(parts, [question] * 2, 2)[:1]


# The published sampling


def test_tokens_are_drawn_with_their_odds():
    logits = torch.tensor([[0.1, 0.0, -0.2, 0.2, -5.0, 0.15]])
    count = 4000
    sampling = Sampling([str(n) for n in range(count)], temperature=0.2, likeliest=3)
    found = Counter(sampling(range(count), [0] * count, logits.expand(count, -1)))
    odds = torch.tensor([0.1, 0.2, 0.15]).div(0.2).softmax(0).tolist()
    assert set(found) == {0, 3, 5}
    for token, share in zip((0, 3, 5), odds, strict=True):
        assert found[token] / count == pytest.approx(share, abs=0.03)


def test_luck_hangs_on_name_and_step_alone():
    logits = torch.zeros(1, 100)
    sampling = Sampling(["a", "b"], likeliest=100)
    first = [sampling([n], [step], logits)[0] for n in (0, 1) for step in range(10)]
    assert len(set(first)) > 10
    together = [
        token
        for step in range(10)
        for token in Sampling(["b", "a"], likeliest=100)([1, 0], [step] * 2, logits.expand(2, -1))
    ]
    assert [*together[::2], *together[1::2]] == first


def test_few_tokens_and_certain_ones():
    assert Sampling(["a"])([0], [0], torch.tensor([[-1e9, 3.0]])) == [1]
    assert Sampling(["a"], likeliest=1)([0], [0], torch.tensor([[0.0, 1.0, 0.5]])) == [1]
