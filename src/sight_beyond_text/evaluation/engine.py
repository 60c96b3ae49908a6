"""lm-eval's model `sight`: its `hf` model, with what requests have in common computed once.

Every answer is that of `hf` up to rounding. Log-likelihoods are computed in float32 even where
the model is in bfloat16, whose 8 bits would make choices tie.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import (
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.models.utils_hf import clear_torch_cache
from tqdm import tqdm

from sight_beyond_text.errors import UserError
from sight_beyond_text.evaluation import prefix_tree, shared_generation, tree_attention
from sight_beyond_text.evaluation.truncation import cut_of_choices, cut_of_prompts

TOKEN_BUDGET = {"cpu": 2048}
ON_ACCELERATORS = 16384
"""Tokens a pass where the user doesn't say: more brings a CPU nothing."""

SMALLEST_BUDGET = 64
ROW = (128, 1024)
"""Tokens of a row that branches share: the model's width, but within these."""

MOST_LOGITS = 2**26
"""Numbers in the logits of one pass, about: 256 MiB in float32."""

SCORED_AT_ONCE = 2**23
"""Numbers of the logits that are turned into probabilities at once."""

OPEN_PROMPTS = 64
"""Prompts that are continued at once, at most; each takes room, too."""

REMEMBERED = 256
"""Texts whose tokens are kept."""

GREEDY = {"until", "max_gen_toks", "do_sample", "temperature"}
"""Settings of a request that plain greedy generation knows."""

HARMLESS = {
    "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "do_sample",
    "temperature", "top_p", "top_k", "min_p", "max_length", "max_new_tokens", "use_cache",
    "transformers_version", "_from_model_config", "output_attentions", "output_hidden_states",
    "return_dict_in_generate", "cache_implementation",
}  # fmt: skip
"""Settings of a model's own that don't change what it generates greedily."""

log = logging.getLogger(__name__)


@register_model("sight")
class SightLM(HFLM):
    """A causal language model that reads the common starts of requests once.

    Takes all arguments of lm-eval's `hf`, and `token_budget`, the tokens of a pass. Where memory
    runs out, the budget is halved and what is left is asked again. Models whose attention can't
    be shared (recurrent ones, say) are read as `hf` reads them.

    Attributes:
        truncated: tokens cut from the left of requests that were too long, by their arguments.
        counts: `requests`, `tokens` (as `hf` would read them) and `computed` (really read).
    """

    def __init__(self, *args, token_budget: int | str | None = None, **kwargs):
        self._encoded: dict[tuple, list[int]] = {}
        self._has_bar = False
        super().__init__(*args, **kwargs)
        budget = token_budget or TOKEN_BUDGET.get(self.device.type, ON_ACCELERATORS)
        self.token_budget = int(budget)
        self.truncated: dict[tuple, int] = {}
        self.counts: dict[str, int] = defaultdict(int)
        self._shares: bool | None = None

    @property
    def shares(self) -> bool:
        """Whether starts can be shared with this model; tried out at the first request."""
        if self._shares is None:
            self._shares = self.backend == "causal" and tree_attention.can_share(self.model)
            if not self._shares:
                log.warning(
                    "%s: starts can't be shared with this model; it is read as `hf` reads it",
                    type(self.model).__name__,
                )
        return self._shares

    def tok_encode(
        self, string: str, add_special_tokens=None, left_truncate_len=None, **kwargs
    ) -> list[int]:
        """Token ids of `string`; the choices of a question share it, and come one by one."""
        key = (string, add_special_tokens, left_truncate_len)
        if key not in self._encoded:
            if len(self._encoded) >= REMEMBERED:
                self._encoded.clear()
            self._encoded[key] = super().tok_encode(
                string, add_special_tokens, left_truncate_len, **kwargs
            )
        return self._encoded[key]

    def loglikelihood(self, requests, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, whether greedy) of each request's continuation."""
        # Tokenizing is too quick for a bar of its own; the choices have one.
        self._has_bar = not disable_tqdm
        try:
            return super().loglikelihood(requests, disable_tqdm=True)
        finally:
            self._has_bar = False

    def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
        """What the model says after each request's context, up to its stops."""
        alike: dict[str, list[int]] = defaultdict(list)
        others = []
        for number, request in enumerate(requests):
            settings = request.args[1]
            if self.shares and self._is_greedy(settings):
                alike[json.dumps(settings, sort_keys=True)].append(number)
            else:
                others.append(number)
        answers: list[str | None] = [None] * len(requests)
        if others:
            self.truncated |= cut_of_prompts(
                [requests[n].args for n in others], self._prompt, self.max_length, self.max_gen_toks
            )
            asked = [requests[n] for n in others]
            plainly = super().generate_until
            found = self._in_memory(lambda _: plainly(asked, disable_tqdm))
            for number, text in zip(others, found, strict=True):
                answers[number] = text
        total = len(requests) - len(others)
        with tqdm(total=total, desc="answers", unit="", disable=disable_tqdm or not total) as bar:
            for numbers in alike.values():
                for number, text in self._generated([requests[n].args for n in numbers]):
                    answers[numbers[number]] = text
                    self.cache_hook.add_partial(
                        "generate_until", requests[numbers[number]].args, text
                    )
                    bar.update()
        return answers

    def _is_greedy(self, settings: dict) -> bool:
        known = normalize_gen_kwargs(settings, self.max_gen_toks)
        own = getattr(self.model, "generation_config", None)
        changed = set(own.to_diff_dict()) - HARMLESS if own is not None else set()
        return not known["do_sample"] and set(known) <= GREEDY and not changed

    def _generated(self, asked: list[tuple[str, dict]]) -> Iterator[tuple[int, str]]:
        """(number of the request, text); all have the same settings."""
        settings = normalize_gen_kwargs(asked[0][1], self.max_gen_toks)
        limit = settings["max_gen_toks"]
        eos = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        stops = handle_stop_sequences(settings["until"], eos=eos)
        room = self.max_length - limit
        if room <= 0:
            raise UserError(
                f"answers of {limit} tokens don't fit into the model's {self.max_length}"
                " positions; leave this benchmark out, or lower its max_gen_toks"
            )
        same: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, (context, _) in enumerate(asked):
            tokens = self._prompt(context)
            if len(tokens) > room:
                self.truncated[(context,)] = len(tokens) - room
            same[tuple(tokens[-room:])].append(number)
        self.counts["requests"] += len(asked)
        self.counts["tokens"] += sum(map(len, same))
        is_done = self._end(stops)
        while same:
            prompts = list(same)
            arrays = [np.array(prompt) for prompt in prompts]
            try:
                with self._precision():
                    for number, tokens in shared_generation.generate(
                        self.model, arrays, limit, is_done, self.token_budget, OPEN_PROMPTS,
                        self._count,
                    ):  # fmt: skip
                        text = self._text(tokens, stops)
                        for request in same.pop(prompts[number]):
                            yield request, text
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
                exhausted = str(error)
            else:
                continue
            self._halve_budget(exhausted)

    def _count(self, tokens: int) -> None:
        self.counts["computed"] += tokens

    def _prompt(self, context: str) -> list[int]:
        given = {}
        if has_bos_prefix(context, getattr(self.tokenizer, "bos_token", None)):
            given = {"add_special_tokens": False}
        elif self.add_bos_token is not None:
            given = {"add_special_tokens": self.add_bos_token}
        return self.tokenizer(context, truncation=self.truncation, **given)["input_ids"]

    def _end(self, stops: list[str]) -> Callable[[list[int]], bool]:
        """Whether generated tokens have come to their end, as `hf` tells it."""
        own = getattr(self.model, "generation_config", None)
        ids = getattr(own, "eos_token_id", None)
        ends = set(ids if isinstance(ids, list) else [ids])
        encoded = [self.tokenizer.encode(stop, add_special_tokens=False) for stop in stops]
        # A stop may come in more tokens than it is encoded in.
        back = max(map(len, encoded)) + 2

        def is_done(tokens: list[int]) -> bool:
            if tokens[-1] in ends:
                return True
            said = self.tokenizer.decode(tokens[-back:])
            return any(stop in said for stop in stops)

        return is_done

    def _text(self, tokens: list[int], stops: list[str]) -> str:
        """Generated tokens as text, cut at the first stop, without what was thought before."""
        if isinstance(self.think_end_token, int) and self.think_end_token in tokens:
            last = len(tokens) - 1 - tokens[::-1].index(self.think_end_token)
            tokens = tokens[last + 1 :]
        text = self.tok_decode(tokens)
        if isinstance(self.think_end_token, int):
            text = text.lstrip()
        mark = self.think_end_token if isinstance(self.think_end_token, str) else None
        return postprocess_generated_text(generation=text, stop=stops, think_end_token=mark)

    def _loglikelihood_tokens(self, requests, disable_tqdm=False, override_bs=None):
        # The last token is only scored, not read.
        disable_tqdm = disable_tqdm and not self._has_bar
        self.truncated |= cut_of_choices(requests, self.max_length + 1)
        for arguments, _, continuation in requests:
            self._check_choice(arguments, continuation)
        if not self.shares:
            plainly = super()._loglikelihood_tokens
            return self._in_memory(lambda size: plainly(requests, disable_tqdm, size), override_bs)
        asked: dict[tuple[int, ...], list[int]] = defaultdict(list)
        continuations = []
        for number, (_, context, continuation) in enumerate(requests):
            # As upstream: cut from the left.
            whole = (context + continuation)[-(self.max_length + 1) :]
            asked[tuple(whole[:-1])].append(number)
            continuations.append(np.array(continuation))
            self.counts["requests"] += 1
        self.counts["tokens"] += sum(map(len, asked))
        answers: list[tuple[float, bool] | None] = [None] * len(requests)
        with tqdm(total=len(requests), desc="choices", unit="", disable=disable_tqdm) as bar:
            while asked:
                try:
                    for tokens, found in self._scored(dict(asked), continuations):
                        for number, answer in zip(asked.pop(tokens), found, strict=True):
                            answers[number] = answer
                            arguments = requests[number][0]
                            if arguments is not None:
                                self.cache_hook.add_partial("loglikelihood", arguments, answer)
                        bar.update(len(found))
                except RuntimeError as error:
                    if not should_reduce_batch_size(error):
                        raise
                    exhausted = str(error)
                else:
                    continue
                self._halve_budget(exhausted)
        return answers

    def _check_choice(self, arguments: tuple | None, continuation: list[int]) -> None:
        if not continuation:
            raise UserError(
                f"a choice adds no token to its question ({str(arguments)[-80:]!r}), so it has"
                " no likelihood; leave this benchmark out"
            )
        if len(continuation) > self.max_length:
            raise UserError(
                f"a choice of {len(continuation)} tokens is longer than the model's"
                f" {self.max_length} positions; leave this benchmark out"
            )

    def _in_memory(self, ask: Callable[[int | None], list], size: int | None = None) -> list:
        """What `hf` answers, with half the rows in a batch each time that memory runs out.

        Args:
            ask: asks `hf`, given `size`.
            size: rows of a batch that aren't the model's own.
        """
        while True:
            try:
                return ask(size)
            except RuntimeError as error:
                rows = size or self.batch_size
                # lm-eval's "auto" finds a size by itself.
                if not should_reduce_batch_size(error) or not isinstance(rows, int):
                    raise
                exhausted = str(error)
            if rows <= 1:
                raise UserError(
                    f"out of memory with one row a batch ({exhausted.splitlines()[0][:120]}); use a"
                    " larger device, or the base in 4 bits"
                )
            rows //= 2
            if size is None:
                self.batch_size_per_gpu = rows
            else:
                size = rows
            clear_torch_cache()
            log.warning("out of memory; going on with %d rows a batch", rows)

    def _halve_budget(self, reason: str) -> None:
        if self.token_budget <= SMALLEST_BUDGET:
            raise UserError(
                f"out of memory with {self.token_budget} tokens a pass"
                f" ({reason.splitlines()[0][:120]}); use a larger device, or the base in 4 bits"
            )
        self.token_budget //= 2
        clear_torch_cache()
        log.warning("out of memory; going on with %d tokens a pass", self.token_budget)

    def _scored(
        self, asked: dict[tuple[int, ...], list[int]], continuations: list[np.ndarray]
    ) -> Iterator[tuple[tuple[int, ...], list[tuple[float, bool]]]]:
        """Each input with the answers to its requests, pass by pass."""
        inputs = list(asked)
        sequences = [np.array(tokens) for tokens in inputs]
        longest = [max(len(continuations[n]) for n in asked[tokens]) for tokens in inputs]
        needed = [len(tokens) - size for tokens, size in zip(inputs, longest, strict=True)]
        for layout, start in self._passes(sequences, needed):
            with self._precision():
                logits = tree_attention.read(self.model, layout, start)
            ranks = layout.wanted.ravel().cumsum() - 1
            wanted = [
                (ranks[path[len(path) - len(continuations[n]) :]], continuations[n])
                for number, path in layout.paths.items()
                for n in asked[inputs[number]]
            ]
            found = iter(_log_likelihoods(logits, wanted, self.softmax_dtype or torch.float32))
            del logits
            for number in layout.paths:
                yield inputs[number], [next(found) for _ in asked[inputs[number]]]

    def _passes(
        self, sequences: list[np.ndarray], needed: list[int]
    ) -> Iterator[tuple[prefix_tree.Layout, tree_attention.SharedStart | None]]:
        budget, row = self.token_budget, self._row
        most_scored = max(1, MOST_LOGITS // self.model.get_input_embeddings().num_embeddings)
        windows = tree_attention.windows_of(self.model)

        def walk(group, start):
            for rows in prefix_tree.batches(group, row, budget, most_scored):
                layout = prefix_tree.lay_out(rows, group.length, sequences, needed)
                self.counts["computed"] += int(layout.ids.size)
                plain = not group.length and all(
                    len(members) == 1 and not members[0].children for members in rows
                )
                yield layout, None if plain else start
            for longer in group.groups:
                tokens = sequences[longer.sequence][group.length : longer.length]
                self.counts["computed"] += len(tokens)
                with self._precision():
                    extended = tree_attention.extend(self.model, start, tokens, budget)
                yield from walk(longer, extended)

        tree = prefix_tree.gather(prefix_tree.grow(sequences, needed), row, budget)
        yield from walk(tree, tree_attention.SharedStart(windows))

    @property
    def _row(self) -> int:
        shortest, longest = ROW
        width = self.model.config.get_text_config(decoder=True).hidden_size
        return min(max(shortest, width), longest, self.token_budget)

    def _precision(self):
        """The context that passes run in: the mixed precision that was asked for, if any."""
        return torch.autocast(
            device_type=self.device.type,
            dtype=self.mixed_precision_dtype,
            enabled=self.mixed_precision_dtype is not None,
        )


def _log_likelihoods(
    logits: torch.Tensor, wanted: list[tuple[np.ndarray, np.ndarray]], dtype: torch.dtype
) -> list[tuple[float, bool]]:
    """Sums of log-probabilities in nats, and whether every token was the likeliest.

    Args:
        logits: (positions, vocabulary).
        wanted: for each answer positions and the tokens that come next there.
        dtype: of the softmax.
    """
    sums, likeliest = [], []
    for part in logits.split(max(1, SCORED_AT_ONCE // logits.shape[-1])):
        sums.append(part.to(dtype).logsumexp(-1))
        likeliest.append(part.argmax(-1))
    positions = np.concatenate([where for where, _ in wanted])
    tokens = np.concatenate([ids for _, ids in wanted])
    where = torch.from_numpy(positions).to(logits.device)
    ids = torch.from_numpy(tokens).to(logits.device)
    picked = logits[where, ids].to(dtype) - torch.cat(sums)[where]
    same = (torch.cat(likeliest)[where] == ids).cpu().numpy()
    firsts = np.cumsum([0, *(len(ids) for _, ids in wanted)])[:-1]
    totals = np.add.reduceat(picked.double().cpu().numpy(), firsts)
    greedy = np.logical_and.reduceat(same, firsts)
    return [(float(total), bool(all_)) for total, all_ in zip(totals, greedy, strict=True)]
