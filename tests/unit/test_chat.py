"""Talking with a run: answers are the evaluation's, and the terminal behaves."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_runs import make_world
from transformers import LlamaForCausalLM

from sight_beyond_text import chat, runs
from sight_beyond_text.chat import Conversation, _certain, converse
from sight_beyond_text.data.samples import Pixels
from sight_beyond_text.errors import UserError
from sight_beyond_text.evaluation.image_answers import ImageAnswers, Seen
from sight_beyond_text.models.building import load_processor
from sight_beyond_text.models.checkpoints import load_tuned
from sight_beyond_text.models.published import import_checkpoint


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A base and a tower, and an imported projector between them."""
    folder = make_world(tmp_path_factory.mktemp("world"))
    # Random weights this small always say the same.
    llm = LlamaForCausalLM.from_pretrained(folder / "base")
    with torch.no_grad():
        for tensor in llm.parameters():
            tensor *= 1 if tensor.ndim == 1 else 10
    llm.save_pretrained(folder / "base")
    generator = torch.Generator().manual_seed(0)
    state = {
        "model.mm_projector.weight": torch.randn(64, 32, generator=generator),
        "model.mm_projector.bias": torch.zeros(64),
    }
    torch.save(state, folder / "mm_projector.bin")
    base = {"model": str(folder / "base"), "revision": None, "remote_code": False}
    import_checkpoint(
        str(folder / "mm_projector.bin"),
        folder / "imported",
        base,
        str(folder / "tower"),
        template="v1",
    )
    return folder


@pytest.fixture
def subject(world) -> dict:
    return {**runs.find(str(world / "imported")), "precision": "fp32"}


@pytest.fixture
def sight(world, repository):
    """Starts `sight chat` on the imported checkpoint."""

    def start(*arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-u", "-m", "sight_beyond_text.cli", "chat"]
        command += ["--run", str(world / "imported"), *arguments]
        environment = os.environ | {"PYTHONPATH": str(repository / "src"), "NO_COLOR": "1"}
        return subprocess.Popen(
            command,
            cwd=world,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def test_an_answer_is_the_evaluations(world, subject):
    question = {"prompt": "What is this?", "image": "3.png"}
    model, tokenizer = load_tuned(subject, subject["tower"])
    pixels = Pixels(world / "images", load_processor(subject["tower"]))
    seen = Seen(model)
    answering = ImageAnswers(model, tokenizer, "v1", 1)
    ((_, expected),) = answering.answers([question], lambda names: seen(pixels, names), 12)
    conversation = Conversation(subject, world / "images" / "3.png", 12)
    said: list[str] = []
    assert conversation.answer("What is this?", said.append) == expected
    assert "".join(said) == expected != ""
    assert len(said) > 1, "it streams"


def test_the_image_matters_and_history_is_kept(world, subject):
    alone = Conversation(subject, max_new_tokens=8)
    seen = Conversation(subject, world / "images" / "3.png", 8)
    assert alone.answer("What is this?") != seen.answer("What is this?")
    again = seen.answer("And now?")
    assert [turn[0] for turn in seen.turns] == ["<image>\nWhat is this?", "And now?"]
    assert seen.turns[1][1] == again
    fresh = Conversation(subject, world / "images" / "3.png", 8)
    assert fresh.answer("And now?") != again


def test_a_stop_text_of_several_tokens_ends_an_answer(subject, monkeypatch):
    """v0 ends in line end and ###, which are several tokens here, and aren't shown."""
    conversation = Conversation({**subject, "template": "v0"}, max_new_tokens=40)
    ids = conversation.tokenizer(" Yes\n###never", add_special_tokens=False)["input_ids"]
    made = []

    def forced(input_ids, scores):
        made.append(ids[len(made)])
        chosen = torch.full_like(scores, -1e9)
        chosen[:, made[-1]] = 0
        return chosen

    model_generate = conversation.model.generate
    monkeypatch.setattr(
        conversation.model,
        "generate",
        lambda **given: model_generate(**given, logits_processor=[forced]),
    )
    said: list[str] = []
    assert conversation.answer("?", said.append) == "Yes"
    assert "".join(said) == "Yes"
    assert conversation.tokenizer.decode(made).endswith("###")


@pytest.mark.parametrize(
    ("text", "certain"),
    [
        (" Yes", "Yes"),
        ("Yes\n", "Yes"),
        ("Yes\n#", "Yes"),
        ("Yes\n##", "Yes"),
        ("Yes\n#1", "Yes\n#1"),
        ("caf\ufffd", "caf"),
        ("one < two", "one < two"),
        ("a </", "a"),
    ],
)
def test_what_may_become_a_stop_text_is_held_back(text, certain):
    assert _certain(text, ("\n###", "</s>")) == certain


def test_a_stopped_answer_is_kept_as_far_as_it_came(subject):
    conversation = Conversation(subject, max_new_tokens=30)
    said: list[str] = []

    def say(part: str) -> None:
        said.append(part)
        if len(said) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conversation.answer("What?", say)
    ((asked, kept),) = conversation.turns
    assert asked == "What?" and kept.startswith("".join(said)[:3])
    conversation.answer("And?")
    assert len(conversation.turns) == 2


def test_a_conversation_that_grew_too_long_is_told(subject):
    conversation = Conversation(subject, max_new_tokens=4)
    with pytest.raises(UserError, match="the model has 512; begin another"):
        conversation.answer("long " * 600)
    assert conversation.turns == []


def test_commands(subject, monkeypatch, capsys):
    typed = iter(["", "/help", "What?", "/new", "Again?", "long " * 600, "/quit", "never"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
    conversation = Conversation(subject, max_new_tokens=4)
    converse(conversation)
    assert [asked for asked, _ in conversation.turns] == ["Again?"]
    told = capsys.readouterr()
    assert told.err.count(chat.HELP) == 2 and "error: the conversation takes" in told.err
    assert next(typed) == "never"


# At the terminal


def test_a_prompt_is_answered_once(sight, subject):
    expected = Conversation({**subject, "precision": "bf16"}, max_new_tokens=6).answer("What?")
    out, err = sight("--prompt", "What?", "--max-new-tokens", "6").communicate(timeout=100)
    assert out == f"{expected}\n"
    assert "Traceback" not in err and "Loading" not in err


def test_it_talks_until_the_input_ends(sight):
    process = sight("--max-new-tokens", "6")
    out, err = process.communicate("What is this?\nAnd this?\n", timeout=100)
    assert process.returncode == 0 and "Traceback" not in err
    assert out.count("> ") == 3 and out.endswith("\n")


def test_ctrl_c_stops_an_answer_then_leaves(sight):
    process = sight("--max-new-tokens", "400")
    process.stdin.write("Tell me everything.\n")
    process.stdin.flush()
    assert process.stdout.read(4).startswith("> "), process.stderr.read()
    process.send_signal(signal.SIGINT)
    process.stdin.write("\n")
    process.stdin.flush()
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert out.endswith("\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--image", "gone.png"), "gone.png: no such image"),
        (("--run", "nothing"), "nothing: no finished run, checkpoint, base or reference"),
    ],
)
def test_mistakes_are_one_line(sight, arguments, message):
    process = sight(*arguments, "--prompt", "?")
    out, err = process.communicate(timeout=100)
    assert process.returncode == 2 and out == ""
    (line,) = err.splitlines()
    assert line.startswith("error: ") and message in line


def test_a_file_that_is_no_image(world, subject):
    with pytest.raises(UserError, match="instructions.json: not a readable image"):
        Conversation(subject, world / "instructions.json")


def test_a_checkpoint_without_a_template(world, subject):
    with pytest.raises(UserError, match="the prompt template isn't known"):
        Conversation({**subject, "template": None})
    with pytest.raises(UserError, match="a language model alone; leave --image out"):
        Conversation({**subject, "projector": None}, Path(world / "images" / "1.png"))
