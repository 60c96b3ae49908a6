"""Answers to questions about images, with everything that questions have in common read once.

To the language model an image is a stretch of tokens like any other: questions about the same
image share its keys and values as they share the beginning of their prompts.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from sight_beyond_text.data.samples import Pixels
from sight_beyond_text.data.templates import IMAGE
from sight_beyond_text.errors import UserError
from sight_beyond_text.evaluation import shared_generation, tree_attention
from sight_beyond_text.evaluation.answers import cut, endings, prompt_ids
from sight_beyond_text.evaluation.shared_generation import Choose, likeliest
from sight_beyond_text.models.building import image_positions, padding_token
from sight_beyond_text.models.features import Features, tower_features

TOKEN_BUDGET = {"cpu": 1024}
ON_ACCELERATORS = 8192
"""Positions a pass, and of keys and values: more brings a CPU nothing."""

SMALLEST_BUDGET = 64
AT_ONCE = 4096
"""Questions whose prompts are held at once."""

TOWER_BATCH = 32
ROOM = 2**28
"""Bytes of features that are kept in memory, for benchmarks about the same images."""

_HERE = -1
"""Stands for a position of an image until it is known which one."""

log = logging.getLogger(__name__)


class Seen:
    """What the tower makes of images: read from a cache on disk, kept from before, or made now.

    Args:
        model: the whole model.
        cached: features on disk, under names that `known_as` gives; None for none.
        room: bytes to keep in memory.
    """

    def __init__(self, model, cached: Features | None = None, room: int = ROOM):
        self.tower, self.layer = model.model.vision_tower, model.config.vision_feature_layer
        self.cached, self.room = cached, room
        self.kept: OrderedDict[tuple, torch.Tensor] = OrderedDict()

    def __call__(self, pixels: Pixels, names: Sequence[str]) -> torch.Tensor:
        """Features (images, positions, size) of images, on the tower's device.

        Raises:
            UserError: an image is missing or isn't readable.
        """
        found = {name: self._known(pixels, name) for name in names}
        for group in _groups([name for name, made in found.items() if made is None], TOWER_BATCH):
            values = torch.stack([pixels(name) for name in group]).to(self.tower.device)
            made = tower_features(self.tower, values, self.layer)
            for name, features in zip(group, made, strict=True):
                found[name] = features
                self._keep((pixels, name), features)
        return torch.stack([found[name].to(self.tower.device) for name in names])

    def _known(self, pixels: Pixels, name: str) -> torch.Tensor | None:
        if (pixels, name) in self.kept:
            self.kept.move_to_end((pixels, name))
            return self.kept[pixels, name]
        return self.cached(known_as(pixels, name)) if self.cached else None

    def _keep(self, key: tuple, features: torch.Tensor) -> None:
        # A copy, so that the rest of the batch is freed.
        self.kept[key] = features.clone()
        while len(self.kept) * features.nbytes > self.room:
            self.kept.popitem(last=False)


def known_as(pixels, name: str) -> str:
    """What an image is called in a cache of features: its path, and how it is corrupted."""
    return str(pixels.folder / name) if isinstance(pixels, Pixels) else pixels.known_as(name)


class _Reader:
    """A whole model as a causal one, to which each position of each image is a token.

    Those of image n have the ids from `words + n * patches` on; `images` gives, for numbers of
    images, what the language model reads in their place (images, patches, hidden size).
    """

    def __init__(self, model):
        self.model, self.device, self.dtype = model, model.device, model.dtype
        self.config = model.config.get_text_config()
        self.patches = image_positions(model.config.vision_config)
        self.words = model.get_input_embeddings().num_embeddings
        self.images: Callable[[list[int]], torch.Tensor] | None = None

    def get_input_embeddings(self):
        return self.model.get_input_embeddings()

    def __call__(self, input_ids: torch.Tensor, **given):
        return self.model(inputs_embeds=self.embedded(input_ids), **given)

    def token(self, image: int) -> int:
        """Id of an image's first position."""
        return self.words + image * self.patches

    def embedded(self, ids: torch.Tensor) -> torch.Tensor:
        """Embeddings (..., hidden size) of ids (...)."""
        of_image = ids >= self.words
        made = self.get_input_embeddings()(ids.masked_fill(of_image, 0))
        if of_image.any():
            places = ids[of_image] - self.words
            numbers, rows = (places // self.patches).unique(return_inverse=True)
            images = self.images(numbers.tolist())
            made[of_image] = images[rows, places % self.patches].to(made.dtype)
        return made


class _Chosen(LogitsProcessor):
    """Leaves of the logits the chosen token alone, for models that transformers generates with."""

    def __init__(self, numbers: list[int], choose: Choose):
        self.numbers, self.choose, self.steps = numbers, choose, 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        steps = [self.steps] * len(self.numbers)
        tokens = torch.tensor(self.choose(self.numbers, steps, scores.float()))
        self.steps += 1
        alone = torch.full_like(scores, -torch.inf)
        return alone.scatter_(1, tokens.to(scores.device)[:, None], 0)


class ImageAnswers:
    """One model's answers to questions about images.

    Where its attention lets branches of a tree be read in one row, each image is read once for all
    its questions. Else batches are padded on the left, and only the tower's features are shared.
    Where memory runs out, passes are halved.

    Args:
        model: the whole model, in eval mode.
        tokenizer: its tokenizer.
        template: the prompt's template.
        batch_size: questions answered at once, at most; those about one image stay together.
        image_marks: tokens around the image, for imported models that were trained with them.
        budget: positions a pass; what suits the device by default.
    """

    def __init__(
        self,
        model,
        tokenizer,
        template: str,
        batch_size: int,
        image_marks: Sequence[str] | None = None,
        budget: int | None = None,
    ):
        self.tokenizer, self.template, self.image_marks = tokenizer, template, image_marks
        self.rows = batch_size
        self.budget = budget or TOKEN_BUDGET.get(model.device.type, ON_ACCELERATORS)
        self.stops, self.ends = endings(template, tokenizer)
        self.reader, self.projector = _Reader(model), model.model.multi_modal_projector
        self.shares = tree_attention.can_share(self.reader)

    def answers(
        self,
        questions: Sequence[dict],
        features: Callable[[Sequence[str]], torch.Tensor],
        max_new_tokens: int,
        choose: Choose = likeliest,
    ) -> Iterator[tuple[int, str]]:
        """Puts questions to the model.

        Args:
            questions: each with `image` and `prompt`; `shots`, where there are some, are
                (prompt, answer) pairs without an image that come before.
            features: from names of images to the tower's features of them.
            max_new_tokens: limit of an answer.
            choose: says which token comes next; it gets the questions' numbers.

        Yields:
            (number of the question, its answer without stop strings), as they are made.

        Raises:
            UserError: an image can't be read, a prompt is too long, or memory is too small.
        """
        names = list(dict.fromkeys(question["image"] for question in questions))
        place = {name: number for number, name in enumerate(names)}
        images = [place[question["image"]] for question in questions]
        turns = [(*map(tuple, q.get("shots", ())), (q["prompt"], "")) for q in questions]
        laid = {words: self._laid(words) for words in set(turns)}
        prompts = [
            self._about(image, laid[words]) for words, image in zip(turns, images, strict=True)
        ]
        self._check_length(prompts, max_new_tokens)

        def seen(numbers: list[int]) -> torch.Tensor:
            return self.projector(features([names[number] for number in numbers]))

        self.reader.images = seen
        for numbers in _parts(prompts, images):
            for number, tokens in self._continued(numbers, prompts, max_new_tokens, choose):
                yield number, cut(self.tokenizer.decode(tokens), self.stops)

    def _laid(self, turns: Sequence[tuple[str, str]]) -> np.ndarray:
        *shots, (text, _) = turns
        turns, patches = [*shots, (f"{IMAGE}\n{text}", "")], self.reader.patches
        return np.array(
            prompt_ids(turns, self.template, self.tokenizer, _HERE, patches, self.image_marks)
        )

    def _about(self, image: int, laid: np.ndarray) -> np.ndarray:
        ids, first = laid.copy(), self.reader.token(image)
        ids[ids == _HERE] = np.arange(first, first + self.reader.patches)
        return ids

    def _check_length(self, prompts: list[np.ndarray], limit: int) -> None:
        most = getattr(self.reader.config, "max_position_embeddings", None)
        longest = max(map(len, prompts), default=0)
        if most is not None and longest + limit > most:
            raise UserError(
                f"a question of {longest} positions and an answer of {limit} tokens don't fit into"
                f" the model's {most} positions; shorten the prompt, or lower max_new_tokens"
            )

    def _continued(
        self, numbers: list[int], prompts: list[np.ndarray], limit: int, choose: Choose
    ) -> Iterator[tuple[int, list[int]]]:
        """(number, new tokens) of each; where memory runs out, the rest in smaller passes."""
        waiting = dict.fromkeys(numbers)
        generate = self._shared if self.shares else self._padded
        while waiting:
            try:
                for number, tokens in generate(list(waiting), prompts, limit, choose):
                    del waiting[number]
                    yield number, tokens
            except RuntimeError as error:
                from accelerate.utils.memory import should_reduce_batch_size

                if not should_reduce_batch_size(error):
                    raise
                exhausted = str(error).splitlines()[0][:120]
            else:
                continue
            if self.budget <= SMALLEST_BUDGET:
                raise UserError(
                    f"out of memory with {self.budget} positions a pass ({exhausted}); use a larger"
                    " device, or the base in 4 bits"
                )
            self.budget, self.rows = self.budget // 2, max(1, self.rows // 2)
            log.warning("out of memory; going on with %d positions a pass", self.budget)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _shared(self, numbers, prompts, limit, choose) -> Iterator[tuple[int, list[int]]]:
        def chosen(places: list[int], steps: list[int], logits: torch.Tensor) -> list[int]:
            return choose([numbers[place] for place in places], steps, logits)

        found = shared_generation.generate(
            self.reader,
            [prompts[number] for number in numbers],
            limit,
            self._is_done,
            self.budget,
            self.rows,
            lambda tokens: None,
            chosen,
        )
        for place, tokens in found:
            yield numbers[place], tokens

    def _is_done(self, tokens: list[int]) -> bool:
        return tokens[-1] in self.ends or any(
            stop in self.tokenizer.decode(tokens) for stop in self.stops
        )

    @torch.no_grad()
    def _padded(self, numbers, prompts, limit, choose) -> Iterator[tuple[int, list[int]]]:
        pad = padding_token(self.tokenizer, self.reader.words)
        for group in _groups(numbers, self.rows):
            length = max(len(prompts[number]) for number in group)
            ids = np.full((len(group), length), pad)
            mask = np.zeros_like(ids)
            for row, number in enumerate(group):
                ids[row, length - len(prompts[number]) :] = prompts[number]
                mask[row, length - len(prompts[number]) :] = 1
            made = self.reader.model.generate(
                inputs_embeds=self.reader.embedded(torch.from_numpy(ids).to(self.reader.device)),
                attention_mask=torch.from_numpy(mask).to(self.reader.device),
                generation_config=GenerationConfig(
                    max_new_tokens=limit,
                    do_sample=False,
                    num_beams=1,
                    repetition_penalty=1.0,
                    pad_token_id=pad,
                    eos_token_id=self.ends,
                ),
                logits_processor=LogitsProcessorList([_Chosen(group, choose)]),
            )
            yield from zip(group, made.tolist(), strict=True)


def _parts(prompts: list[np.ndarray], images: list[int]) -> Iterator[list[int]]:
    """Numbers of prompts that are read together: all different, those of an image side by side."""
    times: Counter[bytes] = Counter()
    before = []
    for prompt in prompts:
        key = prompt.tobytes()
        before.append(times[key])
        times[key] += 1
    order = sorted(range(len(prompts)), key=lambda number: (before[number], images[number]))
    for _, alike in groupby(order, key=before.__getitem__):
        yield from _groups(list(alike), AT_ONCE)


def _groups(items: list, size: int) -> Iterator[list]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
