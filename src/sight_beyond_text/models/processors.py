"""The processor of an exported model: its ids are those that the model was trained on.

Training encodes a prompt itself: BOS first, the image as copies of a spare row's id, each text
between images by itself. transformers' `LlavaProcessor` repeats the text `<image>` and tokenizes
the whole. Here the tokenizer is changed, where it must be, so that both come to the same ids.
"""

from __future__ import annotations

import json

from tokenizers import AddedToken, Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import LlavaProcessor, TokenizersBackend

from sight_beyond_text.data.samples import encode
from sight_beyond_text.data.templates import (
    CHAT_SETTINGS,
    IMAGE,
    SAME_DAY,
    Segment,
    segments,
)
from sight_beyond_text.errors import UserError
from sight_beyond_text.models.building import padding_token

_HUMAN = """\
{%- macro human(content) -%}
{%- set said = namespace(image=false, text='') -%}
{%- if content is string -%}{%- set said.text = content -%}
{%- else -%}
{%- for part in content -%}
{%- if part['type'] == 'image' -%}{%- set said.image = true -%}
{%- else -%}{%- set said.text = said.text + part['text'] -%}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- if '<image>' in said.text -%}
{%- set said.image = true -%}{%- set said.text = said.text | replace('<image>', '') -%}
{%- endif -%}
{%- set said.text = said.text | trim -%}
{%- if said.image -%}{{ IMAGE }}{%- if said.text -%}{{ '\\n' }}{%- endif -%}{%- endif -%}
{{ said.text }}
{%- endmacro -%}
"""
"""What a user says, as `data.templates` lays it out: the image first, then the words."""


def llava_processor(
    image_processor, tokenizer, config, template: str | None, image_marks: list[str] | None = None
) -> LlavaProcessor:
    """The processor that goes with an exported model.

    Args:
        image_processor: the tower's.
        tokenizer: the one that the model was trained with.
        config: the model's `LlavaConfig`; tells the image's id and the patches.
        template: the run's prompt template; the processor's chat template is made from it.
        image_marks: texts just before and after an image, in chat.

    Returns:
        A processor whose ids for one prompt with an image are those of `data.samples.encode`.

    Raises:
        UserError: the tokenizer can't be made to give those ids.
    """
    spare = config.image_token_id
    portable = portable_tokenizer(tokenizer, spare)
    class_token = config.vision_feature_select_strategy == "default"
    processor = LlavaProcessor(
        image_processor=image_processor,
        tokenizer=portable,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=int(class_token),
        chat_template=chat_template(template, tokenizer, image_marks),
        image_token=IMAGE,
    )
    for laid in _prompts(template, tokenizer):
        text = "".join(part.text for part in laid)
        if processor.tokenizer(text)["input_ids"] != encode(laid, tokenizer, spare, 1)[0]:
            raise UserError(
                "the tokenizer can't be exported for images: its ids would differ from those of"
                " the training; export the language model alone (--part language)"
            )
    return processor


def _prompts(template: str | None, tokenizer) -> list[list[Segment]]:
    turns = [(f"{IMAGE}\nIs there a dog, or a cat?", "")]
    laid = segments(turns, template or "v1", tokenizer, answer_last=True)
    return [laid, [Segment("See "), Segment(IMAGE, mark=True), Segment(" and say.")]]


def portable_tokenizer(tokenizer, spare: int) -> TokenizersBackend:
    """A tokenizer in which the text `<image>` is the spare row's id.

    Where the base has rows beyond its tokens, `<image>` is added at the last row, and reserved
    tokens before it. Where the spare row is the unknown or the padding token, that token is renamed
    to `<image>`; its text then means nothing any more. Padding is the token that training pads
    with, so that no padding is taken for an image.

    Args:
        tokenizer: a base's.
        spare: id of one image position.

    Raises:
        UserError: the tokenizer isn't one of the `tokenizers` library.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            "the base's tokenizer isn't one of the tokenizers library, so it can't be exported"
            " for images; export the language model alone (--part language)"
        )
    values = json.loads(tokenizer.backend_tokenizer.to_str())
    names, extra = dict(tokenizer.special_tokens_map), list(tokenizer.extra_special_tokens)
    current = tokenizer.convert_ids_to_tokens(spare) if spare < len(tokenizer) else None
    if current is not None and current != IMAGE:
        _rename(values, current, spare)
        names = {key: IMAGE if text == current else text for key, text in names.items()}
        extra = [text for text in extra if text != current]
    # Each text beside an image is tokenized as a text of its own; so is each one here.
    for part in _parts(values["pre_tokenizer"]):
        if part.get("prepend_scheme") == "first":
            part["prepend_scheme"] = "always"
    backend = Tokenizer.from_str(json.dumps(values))
    reserved = [f"<|reserved_{index}|>" for index in range(backend.get_vocab_size(), spare)]
    for text in (*reserved, IMAGE):
        backend.add_special_tokens([AddedToken(text, special=True, normalized=False)])
    bos = tokenizer.bos_token
    if bos is not None:
        special = [(bos, tokenizer.bos_token_id)]
        backend.post_processor = TemplateProcessing(f"{bos} $A", f"{bos} $A $B", special)
    else:
        backend.post_processor = TemplateProcessing("$A", "$A $B", [])
    padding = padding_token(tokenizer, spare)
    if padding in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        names["pad_token"] = tokenizer.convert_ids_to_tokens(padding)
    else:
        names.pop("pad_token", None)
    portable = TokenizersBackend(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        model_max_length=tokenizer.model_max_length,
        padding_side="left",
        extra_special_tokens=[*(text for text in extra if text != IMAGE), IMAGE],
        **names,
    )
    if portable.convert_tokens_to_ids(IMAGE) != spare:
        raise UserError(
            f"the base's tokenizer can't take {IMAGE} as its token {spare};"
            " export the language model alone (--part language)"
        )
    return portable


def _rename(values: dict, current: str, spare: int) -> None:
    """Gives the token `spare` the text `<image>`, in the JSON of a tokenizer."""
    model = values["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {
            IMAGE if index == spare else text: index for text, index in model["vocab"].items()
        }
    elif spare < len(model["vocab"]):
        model["vocab"][spare][0] = IMAGE
    if model.get("unk_token") == current:
        model["unk_token"] = IMAGE
    for token in values["added_tokens"]:
        if token["id"] == spare:
            token["content"] = IMAGE


def _parts(value: dict | None) -> list[dict]:
    """A pre-tokenizer, and those inside it."""
    if value is None:
        return []
    return [value, *(part for inner in value.get("pretokenizers", ()) for part in _parts(inner))]


def chat_template(
    template: str | None, tokenizer, image_marks: list[str] | None = None
) -> str | None:
    """A Jinja chat template that writes a prompt as training did, but for the BOS.

    Contents may be texts, or lists of `{"type": "image"}` and `{"type": "text", "text": ...}`.

    Args:
        template: a prompt template of `data.templates`; none is made for "plain", which has no
            place for questions.
        tokenizer: the one that the model was trained with.
        image_marks: texts just before and after an image.
    """
    if template in (None, "plain"):
        return None
    human = _HUMAN.replace("IMAGE", json.dumps(IMAGE.join(image_marks or ("", ""))))
    if template == "chat":
        return human + _own_chat_template(tokenizer)
    # The template itself tells what stands around the texts of a first and a later turn.
    laid = segments([("(human 1)", "(answer 1)"), ("(human 2)", "(answer 2)")], template, tokenizer)
    whole = "".join(part.text for part in laid)
    opening, rest = whole.split("(human 1)")
    asked, rest = rest.split("(answer 1)")
    between, rest = rest.split("(human 2)")
    end = rest.split("(answer 2)")[1]
    later = between.removeprefix(end)
    first, lead = json.dumps(opening), asked.rstrip(" ")
    return (
        human
        + "{%- for message in messages -%}\n"
        + "{%- if message['role'] == 'user' -%}\n"
        + f"{{{{ {first} if loop.first else {json.dumps(later)} }}}}"
        + f"{{{{ human(message['content']) }}}}{{{{ {json.dumps(lead)} }}}}\n"
        + "{%- else -%}\n"
        + f"{{{{ {json.dumps(asked[len(lead) :])} }}}}{{{{ human(message['content']) }}}}"
        + f"{{{{ {json.dumps(end)} }}}}\n"
        + "{%- endif -%}\n"
        + "{%- endfor -%}\n"
    )


def _own_chat_template(tokenizer) -> str:
    """The tokenizer's own, given texts; without its BOS first, which the processor adds."""
    own = tokenizer.get_chat_template()
    settings = "".join(
        f"{{%- set {name} = {json.dumps(value)} -%}}\n" for name, value in CHAT_SETTINGS.items()
    )
    return (
        "{%- set plain = namespace(messages=[]) -%}\n"
        + "{%- for message in messages -%}\n"
        + "{%- set text = human(message['content']) -%}\n"
        + "{%- set plain.messages = plain.messages + [{'role': message['role'], 'content': text}]"
        + " -%}\n"
        + "{%- endfor -%}\n"
        + "{%- set messages = plain.messages -%}\n"
        # A block's tag takes the line end after it, as the end of a template does before it.
        + f"{settings}{SAME_DAY}{{% set prompt %}}{{{{ '' }}}}"
        + own.removesuffix("\n")
        + "{% endset %}\n"
        + "{{- prompt[bos_token | length:] if bos_token and prompt.startswith(bos_token)"
        + " else prompt -}}\n"
    )
