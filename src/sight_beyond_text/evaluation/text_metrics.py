"""Metrics that lm-eval's tasks fetch with `evaluate.load`, here without a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sight_beyond_text.evaluation.squad import SquadV2

ROUGES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


class Rouge:
    """ROUGE (Lin, 2004) by Google's `rouge_score`, called as the metric "rouge" of `evaluate`."""

    def compute(
        self,
        predictions: Sequence[str],
        references: Sequence[str] | Sequence[Sequence[str]],
        rouge_types: Sequence[str] = ROUGES,
        use_aggregator: bool = True,
        use_stemmer: bool = False,
        tokenizer: Callable[[str], list[str]] | None = None,
    ) -> dict[str, float | list[float]]:
        """F-measures from 0 to 1, by kind.

        Args:
            predictions: texts.
            references: of each prediction one text, or several, of which the best counts.
            rouge_types: which kinds.
            use_aggregator: whether to give one number, the middle of `rouge_score`'s bootstrap
                (which draws from NumPy's random numbers), and not one a prediction.
            use_stemmer: whether words are compared by their stems.
            tokenizer: splits a text into words; `rouge_score`'s own where there is none.
        """
        from rouge_score.rouge_scorer import RougeScorer
        from rouge_score.scoring import BootstrapAggregator

        own = None if tokenizer is None else _Tokenizer(tokenizer)
        scorer = RougeScorer(list(rouge_types), use_stemmer=use_stemmer, tokenizer=own)
        scores = []
        for said, right in zip(predictions, references, strict=True):
            score = scorer.score if isinstance(right, str) else scorer.score_multi
            scores.append(score(right, said))
        if not use_aggregator:
            return {kind: [score[kind].fmeasure for score in scores] for kind in rouge_types}
        aggregator = BootstrapAggregator()
        for score in scores:
            aggregator.add_scores(score)
        return {kind: found.mid.fmeasure for kind, found in aggregator.aggregate().items()}


class _Tokenizer:
    """A function in the form in which `rouge_score` wants it."""

    def __init__(self, split: Callable[[str], list[str]]):
        self.tokenize = split


METRICS = {"squad_v2": SquadV2, "rouge": Rouge}
"""By the name that `evaluate.load` knows."""
