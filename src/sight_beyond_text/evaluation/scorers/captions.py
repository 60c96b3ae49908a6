"""Caption metrics as COCO's caption evaluation reports them: BLEU-1..4, ROUGE-L, CIDEr.

Sources: BLEU, Papineni et al. (2002), corpus level, closest reference length, through sacrebleu;
ROUGE-L, Lin (2004), with COCO's beta of 1.2; CIDEr, Vedantam et al. (2015), in the variant that
COCO calls CIDEr: CIDEr-D without stemming, document frequencies from the references themselves.
Needs no Java: the tokeniser follows the Penn Treebank rules that occur in captions.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import zip_longest

import pandas as pd
from sacrebleu.metrics import BLEU

from sight_beyond_text.errors import UserError
from sight_beyond_text.evaluation.scorers import check_predictions

_ORDERS = (1, 2, 3, 4)
_ROUGE_BETA = 1.2
_CIDER_SIGMA = 6.0
_CIDER_SCALE = 10.0

_ABBREVIATIONS = (
    "mr mrs ms dr prof st mt ft jr sr rev gov gen col capt lt sgt sen rep ave blvd rd bldg dept co "
    "corp inc ltd bros vs etc jan feb mar apr aug sept oct nov dec ph"
).replace(" ", "|")
# Alternatives are tried in order, so what may swallow a period or an apostrophe comes first.
_TOKEN = re.compile(
    rf"""
      (?:https?://|www\.)[^\s"<>()]*[^\s"<>().,;:!?']   # web address
    | [\w.+-]+@\w+(?:[.-]\w+)+                           # mail address
    | </?[A-Za-z][^<>\s]*>                               # tag
    | [@\#](?=[^\W\d])\w+                                # handle, hashtag
    | (?:[^\W\d_]\.){{2,}}(?:-\w+)*(?!\w)                # U.S.  p.m.
    | \b(?i:{_ABBREVIATIONS})\.(?!\w)
    | \b(?i:no)\.(?=\s*\d)                               # No. 5
    | \b[^\W\d_]\.(?!\w|\s+[A-Z]|\s*$)                   # an initial, not the end of a sentence
    | '\d0s\b                                            # '90s
    | \d+(?:[.,:/]\d+)+(?:-\w+)*                         # 1,000  3/4  12:30  1/4-inch
    | (?i:'(?:em|til|cause)\b|'n'|\bol'(?!\w)|\by'(?=all\b)|'t(?=is\b|was\b))
    | (?i:\b(?:ma'am|o'clock|o'er|ne'er|e'er)\b)
    | (?i:'(?:s|m|d|re|ve|ll)\b|n't\b)                   # what a contraction ends in
    | (?i:\bcan(?=not\b)|\b(?:gon|wan)(?=na\b)|\bgot(?=ta\b)|\b(?:gim|lem)(?=me\b))
    | [^\W\d_]+(?=[nN]'[tT]\b)                           # what stands before n't
    | \b[A-Z](?:&[A-Z])+\b                               # A&M
    | [^\W_]+(?:                                         # a word, with what may stand inside it
          [-/_][^\W_]+
        | (?<=[^\W\d_])\.[^\W\d_]+
        | (?<=\b[odlODL])'(?=[^\W\d_]{{3}})[^\W\d_]+     # O'Brien
      )*
    | \.\d+
    | [!?]+
    | \S
    """,
    re.VERBOSE,
)
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&nbsp;": " "}
_ENTITY = re.compile("|".join(_ENTITIES))
_PLAIN = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "…": " ", "–": " ", "—": " "}
    | {"½": "1/2", "¼": "1/4", "¾": "3/4", "£": "#", "€": "$"}
)
# COCO means to drop the brackets as well, but lists their names in capitals, after lower-casing.
_BRACKETS = dict(zip("()[]{}", ("-lrb-", "-rrb-", "-lsb-", "-rsb-", "-lcb-", "-rcb-"), strict=True))
_DROPPED = frozenset("'`\".?!,:-;")
_LAST_TOKENISABLE = "\uffff"


def tokenise(caption: str) -> list[str]:
    """Splits a caption as COCO's evaluation does: Penn Treebank tokens, lower case, no punctuation.

    Brackets stay as "-lrb-" and the like, a run of marks as in "?!" stays, characters beyond the
    basic plane (emoji) go: all this as the reference tokeniser has it. What differs is rare in
    captions: some initials and abbreviations, signs before numbers.
    """
    plain = _ENTITY.sub(lambda match: _ENTITIES[match[0]], caption).translate(_PLAIN)
    return [
        _BRACKETS.get(token, token).lower()
        for token in _TOKEN.findall(plain)
        if token not in _DROPPED and token[0] <= _LAST_TOKENISABLE
    ]


def score(
    predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]
) -> tuple[dict[str, float], pd.DataFrame]:
    """Scores one caption an image against its reference captions.

    CIDEr weighs n-grams by how few of the images in `references` have them, so it depends on the
    set scored: keep that fixed when runs are compared. With a single image it is 0.

    Args:
        predictions: image id -> caption, may be empty. Ids without references are left aside.
        references: image id -> one or more captions.

    Returns:
        The metrics `Bleu_1` to `Bleu_4` and `ROUGE_L`, 0..1, and `CIDEr` (1.0 = 100; at most 10);
        and a frame with one row an image in the order of `references`: image_id, prediction,
        reference (the first), score (the image's CIDEr; the mean is the corpus's).

    Raises:
        UserError: an image has no prediction or no reference, or there are no images.
    """
    check_predictions(predictions, references, "captions", "image_id")
    bare = [image for image, captions in references.items() if not captions]
    if bare:
        raise UserError(
            f"captions: image_id {bare[0]} has no reference; give it one or leave it out"
        )
    guesses = [tokenise(predictions[image]) for image in references]
    truths = [[tokenise(caption) for caption in captions] for captions in references.values()]
    items = pd.DataFrame(
        {
            "image_id": list(references),
            "prediction": [predictions[image] for image in references],
            "reference": [captions[0] for captions in references.values()],
            "score": _cider(guesses, truths),
        }
    )
    rouge = [_rouge_l(guess, truth) for guess, truth in zip(guesses, truths, strict=True)]
    metrics = _bleu(guesses, truths) | {
        "ROUGE_L": math.fsum(rouge) / len(rouge),
        "CIDEr": float(items["score"].mean()),
    }
    return metrics, items


def _bleu(guesses: list[list[str]], truths: list[list[list[str]]]) -> dict[str, float]:
    # Tokens are set already; without `force` sacrebleu warns about that.
    scorer = BLEU(tokenize="none", smooth_method="none", force=True)
    # One stream has one reference of every image, or None where an image has fewer.
    streams = zip_longest(*([" ".join(caption) for caption in captions] for captions in truths))
    counted = scorer.corpus_score([" ".join(guess) for guess in guesses], list(streams))
    return {
        f"Bleu_{order}": BLEU.compute_bleu(
            counted.counts,
            counted.totals,
            counted.sys_len,
            counted.ref_len,
            smooth_method="none",
            max_ngram_order=order,
        ).score
        / 100
        for order in _ORDERS
    }


def _rouge_l(guess: list[str], truth: list[list[str]]) -> float:
    """F-measure of the longest common subsequence, of the best precision and the best recall."""
    common = [_common_length(guess, reference) for reference in truth]
    if not any(common):
        return 0.0
    precision = max(common) / len(guess)
    recall = max(
        length / len(reference)
        for length, reference in zip(common, truth, strict=True)
        if reference
    )
    weight = _ROUGE_BETA**2
    return (1 + weight) * precision * recall / (recall + weight * precision)


def _common_length(first: list[str], second: list[str]) -> int:
    row = [0] * (len(second) + 1)
    for token in first:
        diagonal = 0
        for at, other in enumerate(second, start=1):
            above = row[at]
            row[at] = diagonal + 1 if token == other else max(above, row[at - 1])
            diagonal = above
    return row[-1]


def _ngrams(tokens: list[str]) -> list[Counter]:
    """Counts of the n-grams, one counter for each order."""
    return [
        Counter(zip(*(tokens[skip:] for skip in range(order)), strict=False)) for order in _ORDERS
    ]


def _cider(guesses: list[list[str]], truths: list[list[list[str]]]) -> list[float]:
    """CIDEr of each image, with document frequencies counted over the images' references."""
    counts = [[_ngrams(reference) for reference in truth] for truth in truths]
    frequency = Counter(
        ngram
        for truth in counts
        for ngram in {ngram for orders in truth for grams in orders for ngram in grams}
    )
    images = math.log(len(truths))
    rarity = {ngram: images - math.log(count) for ngram, count in frequency.items()}

    def weigh(orders: list[Counter]) -> list[tuple[dict, float]]:
        weighed = []
        for grams in orders:
            vector = {ngram: count * rarity.get(ngram, images) for ngram, count in grams.items()}
            weighed.append((vector, math.hypot(*vector.values())))
        return weighed

    scores = []
    for guess, truth, orders in zip(guesses, truths, counts, strict=True):
        weighed = weigh(_ngrams(guess))
        similarity = math.fsum(
            _length_penalty(len(guess) - len(reference)) * _clipped_cosine(ours, theirs)
            for reference, grams in zip(truth, orders, strict=True)
            for ours, theirs in zip(weighed, weigh(grams), strict=True)
        )
        scores.append(_CIDER_SCALE * similarity / len(_ORDERS) / len(truth))
    return scores


def _length_penalty(difference: int) -> float:
    return math.exp(-(difference**2) / (2 * _CIDER_SIGMA**2))


def _clipped_cosine(ours: tuple[dict, float], theirs: tuple[dict, float]) -> float:
    """Cosine of two weighed vectors; what the guess repeats beyond the reference counts nothing."""
    (guess, guess_norm), (truth, truth_norm) = ours, theirs
    if not guess_norm or not truth_norm:
        return 0.0
    shared = sum(
        min(weight, truth[ngram]) * truth[ngram]
        for ngram, weight in guess.items()
        if ngram in truth
    )
    return shared / (guess_norm * truth_norm)
