"""Llama's tokenizer from a SentencePiece file alone, as bases of 2023 were often published.

transformers 5.23 needs the sentencepiece package for such a file, and then orders the merges that
make one piece otherwise than SentencePiece does, so that runs of spaces get other tokens. Here the
file is read as what it is, a protocol buffer, and its merges are ordered as in the `tokenizer.json`
files of Llama and Llama 2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import transformers
from tokenizers import AddedToken

_BPE = 2
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
_NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


class LlamaTokenizer(transformers.LlamaTokenizer):
    """transformers' own, filled from `tokenizer.model`; saved, it is an ordinary one."""

    @classmethod
    def convert_to_native_format(cls, **kwargs) -> dict:
        """The arguments of the constructor, with vocabulary and merges out of `vocab_file`.

        What a `tokenizer_config.json` leaves out means what it meant when such files were written:
        a BOS opens texts, and text after a special token begins as a text of its own does.

        Raises:
            ValueError: not a SentencePiece model of byte-pair encoding.
        """
        pieces = read_pieces(kwargs["vocab_file"])
        ids = {piece: index for index, (piece, _, _) in enumerate(pieces)}
        given = {key: value for key, value in kwargs.items() if value is not None}
        named = {str(given.get(key, default)) for key, default in _NAMED.items()}
        marks = [
            AddedToken(piece, normalized=False, special=kind == _CONTROL)
            for piece, _, kind in pieces
            if kind in (_CONTROL, _USER_DEFINED) and piece not in named
        ]
        return {
            "additional_special_tokens": marks,
            "add_bos_token": True,
            "legacy": True,
            **given,
            "vocab": ids,
            "merges": _merges(pieces, ids),
        }


def read_pieces(path: str | Path) -> list[tuple[str, float, int]]:
    """The pieces of a SentencePiece model of byte-pair encoding.

    Source: sentencepiece_model.proto (field 1 of the model: its pieces; field 2: how it was
    trained).

    Returns:
        (text, score, type), by id.

    Raises:
        ValueError: another kind of file or model.
    """
    pieces, model_type = [], 1
    try:
        for number, value in _fields(Path(path).read_bytes()):
            if number == 1:
                piece = dict(_fields(value))
                score = struct.unpack("<f", piece.get(2, b"\0\0\0\0"))[0]
                pieces.append((piece[1].decode(), score, piece.get(3, 1)))
            elif number == 2:
                model_type = dict(_fields(value)).get(3, 1)
    except (IndexError, KeyError, TypeError, AttributeError, struct.error, UnicodeDecodeError):
        raise ValueError(f"{Path(path).name} is no SentencePiece model") from None
    if not pieces or model_type != _BPE:
        raise ValueError(f"{Path(path).name} is no SentencePiece model of byte-pair encoding")
    return pieces


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a protocol buffer."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if key & 7 == 0:
            value, at = _varint(data, at)
        else:
            size, at = {1: (8, at), 5: (4, at)}.get(key & 7) or _varint(data, at)
            value, at = data[at : at + size], at + size
            if len(value) < size:
                raise IndexError
        yield key >> 3, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        shift, at = shift + 7, at + 1
        if byte < 128:
            return value, at


def _merges(pieces: list[tuple[str, float, int]], ids: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to put a piece together from two, the best pieces first."""
    merges = sorted(
        (-score, ids[piece[:at]], ids[piece[at:]], piece[:at], piece[at:])
        for piece, score, kind in pieces
        if kind not in (_UNKNOWN, _CONTROL, _USER_DEFINED)
        for at in range(1, len(piece))
        if piece[:at] in ids and piece[at:] in ids
    )
    return [merge[3:] for merge in merges]
