"""The exported processor's ids are those of training, whichever row stands for the image."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoProcessor,
    CLIPImageProcessorPil,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
)

from sight_beyond_text.data.samples import encode
from sight_beyond_text.data.templates import IMAGE, segments
from sight_beyond_text.errors import UserError
from sight_beyond_text.evaluation.answers import prompt_ids
from sight_beyond_text.micro.tokenizer import train_tokenizer
from sight_beyond_text.models.building import image_token, load_tokenizer
from sight_beyond_text.models.processors import llava_processor, portable_tokenizer

TEXT = "Is there a red circle in the top left? USER: ASSISTANT: [INST] ### Human"
CONVERSATION = [
    (f"{IMAGE}\nWhat is <this>?", ' A "dog", é.'),
    ("And\n\nthat?", "A cat."),
    ("?", ""),
]
TEMPLATES = ("v0", "v1", "llava_llama_2", "chat")
CHAT = (
    "{{ bos_token }}{{ strftime_now('%d') }}, {{ date_string }}{% if enable_thinking %}!{% endif %}"
    "{% for message in messages %}<|{{ message['role'] }}|>\n"
    "{{ message['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}\n"
)


def byte_level(special: list[str], **named: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that adds no BOS by itself, as those of many newer bases."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=CHAT, **named)


@pytest.fixture(scope="module")
def llama(shared_data: Path, tmp_path_factory):
    source = shared_data / "llama2_tokenizer" / "tokenizer.model"
    if not source.is_file():
        pytest.skip("no llama2_tokenizer/tokenizer.model in ../shared/data")
    folder = tmp_path_factory.mktemp("llama")
    shutil.copy(source, folder / "tokenizer.model")
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return load_tokenizer({"model": str(folder), "revision": None})


@pytest.fixture(scope="module")
def bases():
    """Tokenizers by what stands for the image, each with the rows of its base."""
    end = {"bos_token": "<|end|>", "eos_token": "<|end|>"}
    return {
        "own": (train_tokenizer([TEXT], 320), 0),
        "beyond": (byte_level(["<|end|>"], eos_token="<|end|>"), 310),
        "padding": (byte_level(["<|end|>", "<|pad|>"], pad_token="<|pad|>", **end), 0),
        "reserved": (byte_level(["<|end|>", "<|reserved_7|>"], **end), 0),
    }


@pytest.fixture(params=("own", "beyond", "padding", "reserved", "llama"))
def base(request, bases):
    if request.param == "llama":
        return request.getfixturevalue("llama"), 32000
    tokenizer, rows = bases[request.param]
    return tokenizer, max(rows, len(tokenizer))


def configuration(spare: int, strategy: str = "default") -> SimpleNamespace:
    vision = SimpleNamespace(patch_size=32, image_size=64)
    return SimpleNamespace(
        image_token_id=spare, vision_feature_select_strategy=strategy, vision_config=vision
    )


def saved(processor, folder: Path):
    """A processor as a user opens it."""
    processor.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llava"}')
    return AutoProcessor.from_pretrained(folder)


CROP = CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
PICTURE = Image.new("RGB", (80, 64))


def as_messages(turns) -> list[dict]:
    messages = []
    for human, answer in turns:
        words = {"type": "text", "text": human.replace(f"{IMAGE}\n", "")}
        parts = [{"type": "image", "image": PICTURE}, words] if IMAGE in human else [words]
        messages.append({"role": "user", "content": parts})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return messages[:-1]


@pytest.mark.parametrize("template", TEMPLATES)
def test_ids_are_those_of_training(base, template, tmp_path):
    tokenizer, rows = base
    if template == "chat" and not tokenizer.chat_template:
        pytest.skip("a base without a chat template")
    spare = image_token(tokenizer, rows)
    made = llava_processor(CROP, tokenizer, configuration(spare), template)
    processor = saved(made, tmp_path)
    for turns in (CONVERSATION[:1], CONVERSATION):
        asked = [*turns[:-1], (turns[-1][0], "")]
        expected = prompt_ids(asked, template, tokenizer, spare, 4)
        laid = segments(asked, template, tokenizer, answer_last=True)
        plain = processor(images=PICTURE, text="".join(part.text for part in laid))
        assert plain["input_ids"][0] == expected
        chat = processor.apply_chat_template(
            as_messages(asked), add_generation_prompt=True, tokenize=True, return_dict=True
        )
        assert chat["input_ids"][0] == expected
    assert expected.count(spare) == 4
    assert processor.tokenizer.pad_token_id != spare
    assert len(processor.tokenizer) <= rows


def test_texts_without_images_keep_their_ids(base, tmp_path):
    tokenizer, rows = base
    portable = portable_tokenizer(tokenizer, image_token(tokenizer, rows))
    for text in (TEXT, "  two  spaces\n\nand é漢🙂", ""):
        plain = tokenizer(text, add_special_tokens=False)["input_ids"]
        bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        assert portable(text)["input_ids"] == bos + plain
        assert portable.decode(plain) == tokenizer.decode(plain)


def test_marks_around_the_image_are_written_in_chat(tmp_path):
    tokenizer = train_tokenizer([TEXT], 320)
    tokenizer.add_tokens(["<im_start>", "<im_end>"], special_tokens=True)
    marks = ["<im_start>", "<im_end>"]
    made = llava_processor(CROP, tokenizer, configuration(3), "v1", marks)
    processor = saved(made, tmp_path)
    asked = [(f"{IMAGE}\nWhat?", "")]
    chat = processor.apply_chat_template(as_messages(asked), tokenize=True, return_dict=True)
    assert chat["input_ids"][0] == prompt_ids(asked, "v1", tokenizer, 3, 4, marks)


def test_a_tower_without_a_class_token(tmp_path):
    tokenizer = train_tokenizer([TEXT], 320)
    square = SiglipImageProcessorPil(size={"height": 64, "width": 64})
    made = llava_processor(square, tokenizer, configuration(3, "full"), "plain")
    processor = saved(made, tmp_path)
    assert processor.chat_template is None
    found = processor(images=PICTURE, text=IMAGE)["input_ids"][0]
    assert found == encode(segments([(IMAGE, "")], "plain", tokenizer, True), tokenizer, 3, 4)[0]


def test_a_tokenizer_that_cannot_be_changed_is_refused():
    slow = SimpleNamespace(is_fast=False)
    with pytest.raises(UserError, match="export the language model alone"):
        portable_tokenizer(slow, 3)


def test_the_renamed_token_is_gone_and_nothing_else(llama):
    portable = portable_tokenizer(llama, 0)
    before, after = llama.get_vocab(), portable.get_vocab()
    assert after == {IMAGE if name == "<unk>" else name: i for name, i in before.items()}
    assert json.loads(portable.backend_tokenizer.to_str())["model"]["byte_fallback"]
