"""What is learned is the assistant's text and its end mark, in every template and tokenizer."""

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sight_beyond_text.data.samples import IGNORED, encode
from sight_beyond_text.data.templates import (
    IMAGE,
    TEMPLATES,
    Segment,
    end_marks,
    segments,
    turns_of,
)
from sight_beyond_text.errors import UserError
from sight_beyond_text.micro.tokenizer import train_tokenizer

PATCHES = 3
WORDS = (
    "Is there a red circle in the top left? Yes, two: one is USER: small.\n### ASSISTANT: [INST]"
)


@pytest.fixture(scope="module")
def micro():
    return train_tokenizer([WORDS] * 3, 350)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        shift, at = shift + 7, at + 1
        if byte < 128:
            return value, at


def _pieces(data: bytes) -> list[tuple[str, float]]:
    """Pieces and scores of a SentencePiece model: parts 1 and 2 of each field 1."""
    pieces, at = [], 0
    while at < len(data):
        key, at = _varint(data, at)
        size, at = _varint(data, at)
        if key == 0x0A:
            length, start = _varint(data, at + 1)
            end = start + length
            assert data[at] == 0x0A and data[end] == 0x15
            pieces.append((data[start:end].decode(), struct.unpack_from("<f", data, end + 1)[0]))
        at += size
    return pieces


@pytest.fixture(scope="module")
def llama(shared_data: Path):
    """The Llama 2 tokenizer; its merges are all splits of a piece into two, by the score."""
    from transformers import LlamaTokenizer

    folder = shared_data / "llama2_tokenizer"
    if not (folder / "tokenizer.model").is_file():
        pytest.skip("no llama2_tokenizer/tokenizer.model in ../shared/data")
    pieces = _pieces((folder / "tokenizer.model").read_bytes())
    ids = {piece: index for index, (piece, _) in enumerate(pieces)}
    merges = sorted(
        (-score, ids[piece[:at]], ids[piece[at:]], piece[:at], piece[at:])
        for piece, score in pieces
        for at in range(1, len(piece))
        if piece[:at] in ids and piece[at:] in ids
    )
    tokenizer = LlamaTokenizer(vocab=ids, merges=[merge[3:] for merge in merges])
    vectors = json.loads((folder / "token_vectors.json").read_text())["llama2c_test_c"]
    assert vectors
    for vector in vectors:
        text, expected = vector["text"], vector["ids"]
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == expected[1:]
    return tokenizer


@pytest.fixture(params=["micro", "llama"], scope="module")
def tokenizer(request):
    return request.getfixturevalue(request.param)


MARKS = ("<s>", "</s>", "<pad>", "<unk>", IMAGE)
# Texts as people and models write them; those with a tokenizer's own marks mean something else.
SAID = (
    st.text(
        st.sampled_from(list("aZ?.: \n\t#'é漢🙂")) | st.characters(exclude_categories=["Cs", "Cc"]),
        max_size=12,
    )
    | st.sampled_from(
        ["", " Yes.", "### Human: no", "USER: x ASSISTANT: y", "[INST] z [/INST]", "a\n###", WORDS]
    )
).filter(lambda text: not any(mark in text for mark in MARKS))
TURNS = st.lists(st.tuples(SAID, SAID), min_size=1, max_size=4)


def with_image(turns, at_end: bool) -> list[tuple[str, str]]:
    """The image's mark in the first human text, before or after the words."""
    (human, answer), *rest = turns
    return [(f"{human}\n{IMAGE}" if at_end else f"{IMAGE}\n{human}", answer), *rest]


def expected_answer(template: str, answer: str, tokenizer) -> str:
    """What is to be learned of one answer, told without `segments`."""
    answer = answer.strip()
    return {
        "plain": answer + "\n",
        "v0": " " + answer + "\n###",
        "v1": " " + answer + "</s>",
        "llava_llama_2": " " + answer + " </s>",
        "chat": " " + answer + "</s>\n",
    }[template]


def templates_of(tokenizer) -> list[str]:
    return [name for name in TEMPLATES if name != "chat" or tokenizer.chat_template]


def learned_texts(ids: list[int], labels: list[int], tokenizer) -> list[str]:
    """The text of each run of learned tokens, decoded together with all that stands before it."""
    texts, start = [], None
    for at, label in enumerate([*labels, IGNORED]):
        if label != IGNORED and start is None:
            start = at
        elif label == IGNORED and start is not None:
            before = decoded(ids[:start], tokenizer)
            whole = decoded(ids[:at], tokenizer)
            assert whole.startswith(before)
            texts.append(whole[len(before) :])
            start = None
    return texts


def decoded(ids: list[int], tokenizer) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


@settings(max_examples=50, deadline=None)
@given(turns=TURNS, image=st.sampled_from(["none", "first", "last"]))
def test_exactly_the_answers_and_their_end_marks_are_learned(
    micro, tokenizer, turns, image
) -> None:
    if image != "none":
        turns = with_image(turns, image == "last")
    # A token of the vocabulary that none of these texts has.
    place = tokenizer.convert_tokens_to_ids("<image>" if tokenizer.chat_template else "<unk>")
    for template in templates_of(tokenizer):
        ids, labels = encode(segments(turns, template, tokenizer), tokenizer, place, PATCHES)
        assert len(ids) == len(labels)
        assert all(label in (IGNORED, token) for token, label in zip(ids, labels, strict=True))
        assert ids[0] == tokenizer.bos_token_id and labels[0] == IGNORED
        answers = [expected_answer(template, answer, tokenizer) for _, answer in turns]
        texts = learned_texts(ids, labels, tokenizer)
        if template == "plain":
            # Nothing stands between the answers; the first word gets Llama's leading space.
            learned, joined = "".join(texts), "".join(answers)
            assert learned == joined or learned == f" {joined}" and tokenizer is not micro
        else:
            assert texts == answers
        if template in ("v1", "llava_llama_2", "chat"):
            ends = [at for at, token in enumerate(ids) if token == tokenizer.eos_token_id]
            assert len(ends) == len(turns)
            assert all(labels[at] == tokenizer.eos_token_id for at in ends)
        places = [at for at, token in enumerate(ids) if token == place]
        assert len(places) == (0 if image == "none" else PATCHES)
        if places:
            assert places == list(range(places[0], places[0] + PATCHES))
            assert {labels[at] for at in places} == {IGNORED}
            learned = [at for at, label in enumerate(labels) if label != IGNORED]
            assert places[-1] < learned[0]


@settings(max_examples=50, deadline=None)
@given(turns=TURNS, image=st.booleans())
def test_a_prompt_is_the_start_of_what_was_learned_from(tokenizer, turns, image) -> None:
    if image:
        turns = with_image(turns, False)
    place = tokenizer.convert_tokens_to_ids("<image>" if tokenizer.chat_template else "<unk>")
    for template in templates_of(tokenizer):
        whole, labels = encode(segments(turns, template, tokenizer), tokenizer, place, PATCHES)
        laid = segments(turns, template, tokenizer, answer_last=True)
        prompt, masked = encode(laid, tokenizer, place, PATCHES)
        learned = decoded(whole[len(prompt) :], tokenizer).strip()
        if template != "plain" or len(turns) == 1:
            # The answers of `plain` run together, and so may their tokens.
            assert prompt == whole[: len(prompt)]
            assert all(label != IGNORED for label in labels[len(prompt) :])
            expected = expected_answer(template, turns[-1][1], tokenizer)
            assert learned == expected.strip()
        assert not "".join(segment.text for segment in laid).endswith(" ")
        # The prompt doesn't know the answer that is asked for.
        others = [*turns[:-1], (turns[-1][0], "Other")]
        assert laid == segments(others, template, tokenizer, answer_last=True)
        assert [label for label in masked if label != IGNORED] == [
            label for label in labels[: len(prompt)] if label != IGNORED
        ] or template == "plain"


@settings(max_examples=50, deadline=None)
@given(turns=TURNS)
def test_joined_segments_hold_each_text_once_and_in_order(micro, turns) -> None:
    for template in TEMPLATES:
        text = "".join(segment.text for segment in segments(turns, template, micro))
        at = 0
        for human, answer in turns:
            for part in (answer,) if template == "plain" else (human, answer):
                found = text.find(part.strip(), at)
                assert found >= at
                at = found + len(part.strip())


# Exact forms, written out by hand after the published templates


TWO = [(f"What is it?\n{IMAGE}", " A dog. "), ("Sure?", "Yes")]
V0 = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions.\n###"
)
V1 = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)
LLAMA_2 = (
    "[INST] <<SYS>>\nYou are a helpful language and vision assistant. You are able to understand"
    " the visual content that the user provides, and assist the user with a variety of tasks using"
    " natural language.\n<</SYS>>\n\n"
)


@pytest.mark.parametrize(
    ("template", "whole", "learned"),
    [
        ("plain", "<image>A dog.\nYes\n", ["A dog.\n", "Yes\n"]),
        (
            "v0",
            f"{V0} Human: <image>\nWhat is it?\n### Assistant: A dog.\n###"
            " Human: Sure?\n### Assistant: Yes\n###",
            [" A dog.\n###", " Yes\n###"],
        ),
        (
            "v1",
            f"{V1}USER: <image>\nWhat is it? ASSISTANT: A dog.</s>USER: Sure? ASSISTANT: Yes</s>",
            [" A dog.</s>", " Yes</s>"],
        ),
        (
            "llava_llama_2",
            f"{LLAMA_2}<image>\nWhat is it? [/INST] A dog. </s><s>[INST] Sure? [/INST] Yes </s>",
            [" A dog. </s>", " Yes </s>"],
        ),
        (
            "chat",
            "USER: <image>\nWhat is it?\nASSISTANT: A dog.</s>\nUSER: Sure?\nASSISTANT: Yes</s>\n",
            [" A dog.</s>\n", " Yes</s>\n"],
        ),
    ],
)
def test_forms_are_the_published_ones(micro, template: str, whole: str, learned: list) -> None:
    laid = segments(TWO, template, micro)
    assert "".join(segment.text for segment in laid) == whole
    assert [segment.text for segment in laid if segment.learn] == learned
    assert [segment for segment in laid if segment.text == IMAGE] == [Segment(IMAGE, False)]
    asked = segments(TWO, template, micro, answer_last=True)
    assert "".join(segment.text for segment in asked) == whole.removesuffix(learned[-1])


def test_llama_tokens_are_those_of_the_whole_text(llama, shared_data: Path) -> None:
    vector = json.loads((shared_data / "llama2_tokenizer/token_vectors.json").read_text())
    expected = vector["llava_v1_computed"]["ids"]
    turns = [(f"{IMAGE}\nWhat is shown in this image?", "It is a dog.")]
    ids, _ = encode(segments(turns, "v1", llama, answer_last=True), llama, -200, 1)
    assert ids == expected
    whole, labels = encode(segments(turns, "v1", llama), llama, -200, 1)
    assert whole[: len(ids)] == ids
    # As if it had followed "ASSISTANT:" in one text: no doubled space.
    text = "ASSISTANT: It is a dog.</s>"
    assert whole[-7:] == llama(text, add_special_tokens=False)["input_ids"][-7:]
    assert [label for label in labels if label != IGNORED] == whole[len(ids) :]


@pytest.mark.parametrize("human", [f"{IMAGE} What?", f"What?{IMAGE}", f" What?\n{IMAGE}\n"])
def test_the_images_mark_moves_to_the_start_of_its_turn(micro, human: str) -> None:
    for template in ("v0", "v1", "llava_llama_2", "chat"):
        laid = segments([("Hello", "Hi"), (human, "That")], template, micro)
        (at,) = [index for index, segment in enumerate(laid) if segment.text == IMAGE]
        assert laid[at + 1].text.startswith("\nWhat?")
        assert sum(segment.learn for segment in laid[:at]) == 1


def test_a_plain_prompt_leaves_out_the_last_answer_alone(micro) -> None:
    laid = segments([(IMAGE, "One"), ("", "Two")], "plain", micro, answer_last=True)
    assert laid == [Segment(IMAGE), Segment("One\n", True)]
    assert segments([("", "One")], "plain", micro, answer_last=True) == []


def test_a_chat_templates_own_bos_is_not_doubled(micro) -> None:
    own = train_tokenizer([WORDS], 300)
    own.chat_template = "{{ bos_token }}" + own.chat_template
    turns = [("Who?", "Me")]
    place = own.convert_tokens_to_ids("<image>")
    ids, _ = encode(segments(turns, "chat", own), own, place, PATCHES)
    assert ids.count(own.bos_token_id) == 1


def test_a_chat_template_that_rewrites_earlier_turns_is_refused(micro) -> None:
    own = train_tokenizer([WORDS], 300)
    own.chat_template = (
        "{% for m in messages %}{{ loop.length ~ ': ' ~ m['content'] ~ '\n' }}{% endfor %}"
    )
    with pytest.raises(UserError, match="rewrites earlier turns"):
        segments([("Who?", "Me"), ("Why?", "So")], "chat", own)


def test_unknown_templates_and_missing_chat_templates_are_refused(micro) -> None:
    with pytest.raises(UserError, match="no template 'v2'; there are: plain, v0, v1"):
        segments([("a", "b")], "v2", micro)
    own = train_tokenizer([WORDS], 300)
    own.chat_template = None
    with pytest.raises(UserError, match="no chat template; choose another"):
        segments([("a", "b")], "chat", own)


def test_every_template_names_the_mark_at_which_generation_stops(micro) -> None:
    for template in TEMPLATES:
        (*_, last) = (s.text for s in segments([("a", "b")], template, micro) if s.learn)
        stripped = last.rstrip("\n") if template == "chat" else last
        assert any(stripped.endswith(mark) for mark in end_marks(template, micro))


# LLaVA's layout


def test_turns_are_pairs_of_human_and_assistant() -> None:
    said = [("human", "a"), ("gpt", "b"), ("human", "c"), ("gpt", "d")]
    rows = [{"from": role, "value": value} for role, value in said]
    assert turns_of(rows, "here") == [("a", "b"), ("c", "d")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "has 0 turns"),
        ([{"from": "human", "value": "a"}], "has 1 turns"),
        ([{"from": "gpt", "value": "a"}, {"from": "human", "value": "b"}], "turn 1 should be from"),
        ([{"from": "human", "value": "a"}, {"from": "human", "value": "b"}], "turn 2 should be"),
        ([{"from": "human", "value": "a"}, {"from": "gpt", "value": None}], "turn 2 should be"),
        ([{"from": "human"}, {"from": "gpt", "value": "b"}], "turn 1 should be from 'human'"),
    ],
)
def test_turns_out_of_order_are_refused(rows: list[dict], message: str) -> None:
    with pytest.raises(UserError, match="^sample 'x': ") as error:
        turns_of(rows, "sample 'x'")
    assert message in str(error.value) and "\n" not in str(error.value)
