"""transformers' Trainer, learning planned steps in passes, and resuming exactly."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer

from sight_beyond_text.data.samples import IGNORED, Collator, Conversations
from sight_beyond_text.errors import UserError
from sight_beyond_text.training import resume
from sight_beyond_text.training.loss import TokenLoss
from sight_beyond_text.training.steps import split_step

OUT_OF_MEMORY = (torch.OutOfMemoryError, MemoryError)


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Makes a MemoryError of what torch raises where the main memory runs out."""
    try:
        yield
    except RuntimeError as error:
        if "can't allocate memory" in str(error):
            raise MemoryError from None
        raise


class Steps(Dataset):
    """The optimizer steps of a training, as one process has to compute them.

    Args:
        samples: the encoded samples.
        steps: indices of each step's samples.
        collator: makes a batch of samples.
        positions: limit of a pass (see `split_step`).
        process, processes: which of how many this one is.
    """

    def __init__(
        self,
        samples: Conversations,
        steps: list[list[int]],
        collator: Collator,
        positions: int | None,
        process: int = 0,
        processes: int = 1,
    ):
        self.samples, self.steps, self.collator = samples, steps, collator
        self.positions, self.process, self.processes = positions, process, processes
        self.lengths = [len(sample["input_ids"]) for sample in samples.samples]

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, number: int) -> dict:
        """One step: `passes` of this process (batches), and the step's `learned` tokens in all."""
        step = self.steps[number]
        share = split_step(step, self.lengths, self.positions, self.processes)[self.process]
        learned = sum(self._learned(index) for index in step)
        passes = [self.batch(chosen, step) for chosen in share]
        return {"passes": passes, "learned": max(1, learned)}

    def batch(self, chosen: list[int], step: list[int]) -> dict[str, torch.Tensor]:
        """A pass; an empty one is a sample of the step of which nothing is learned."""
        batch = self.collator([self.samples[index] for index in chosen or step[-1:]])
        # Right padding under a causal mask needs no mask of its own, and attention is faster so.
        del batch["attention_mask"]
        if not chosen:
            batch["labels"] = torch.full_like(batch["labels"], IGNORED)
        return batch

    def longest(self) -> tuple[list[int], list[int]]:
        """The pass that takes the most room, and its step."""
        room, found = -1, ([], [])
        for step in self.steps:
            share = split_step(step, self.lengths, self.positions, self.processes)[self.process]
            for chosen in share:
                taken = len(chosen) * max((self.lengths[index] for index in chosen), default=0)
                if taken > room:
                    room, found = taken, (chosen, step)
        return found

    def several_passes(self) -> bool:
        """Whether any step has more than one pass."""
        return any(
            len(split_step(step, self.lengths, self.positions, self.processes)[0]) > 1
            for step in self.steps
        )

    def ids(self, number: int) -> list[str]:
        """Ids of a step's samples."""
        return [self.samples.samples[index]["id"] for index in self.steps[number]]

    def _learned(self, index: int) -> int:
        # The first token is never predicted.
        return sum(label != IGNORED for label in self.samples.samples[index]["labels"][1:])


class Learner(Trainer):
    """Learns steps of several passes, keeps their losses, and leaves exact resume points.

    Args:
        model: the model with its loss.
        args: transformers' training arguments, for one long epoch of all steps.
        steps: what to learn.
        optimizer: of the model's learned parameters.
        recipe: of the run; a resume point of another one is never taken up.
        name: of the run, for messages.
    """

    def __init__(self, model: TokenLoss, args, steps: Steps, optimizer, recipe: dict, name: str):
        super().__init__(model=model, args=args, train_dataset=steps)
        self.own_optimizer = optimizer
        self.recipe, self.name = recipe, name
        self.losses: list[dict] = []
        self.resumed: list[int] = []
        # The newest resume point, as long as no finite step has followed it.
        self.unproven: Path | None = None
        self.started, self.seconds_before = time.monotonic(), 0.0

    @property
    def seconds(self) -> float:
        """Time spent on this training, interrupted ones included."""
        return self.seconds_before + time.monotonic() - self.started

    def resume_from(self, folder: Path) -> str | None:
        """The resume point to go on from, its losses taken over."""
        found = resume.latest(folder, self.recipe)
        if found is None:
            return None
        point, record = found
        self.losses, self.seconds_before = record["losses"], record["seconds"]
        self.resumed = [*record["resumed"], len(self.losses)]
        self.unproven = point
        return str(point)

    def create_accelerator_and_postprocess(self) -> None:
        """As transformers', but with FSDP on CPUs too, which accelerate leaves to accelerators."""
        super().create_accelerator_and_postprocess()
        if not self.args.fsdp:
            return
        state = self.accelerator.state
        if not self.is_fsdp_enabled:
            state.fsdp_plugin = FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
            state.distributed_type = DistributedType.FSDP
            # Each object of accelerate's takes its state from here anew.
            PartialState().distributed_type = DistributedType.FSDP
            self.is_fsdp_enabled = True
        # Else the loss and the gradients' sums are rounded to bfloat16; autocast computes in it.
        state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy()

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """The one that was given; transformers takes none from outside together with FSDP."""
        self.optimizer = self.own_optimizer
        return self.optimizer

    def get_train_dataloader(self) -> DataLoader:
        """One planned step at a time; each process has its own share of every step."""
        workers = self.args.dataloader_num_workers
        return DataLoader(
            self.train_dataset,
            batch_size=1,
            collate_fn=_first,
            num_workers=workers,
            pin_memory=False,
            persistent_workers=workers > 0,
        )

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Forward and backward over all passes of a step.

        Returns:
            This process' part of the mean loss of the step's learned tokens, times the processes.
        """
        model.train()
        total = torch.zeros((), device=self.args.device)
        for number, batch in enumerate(inputs["passes"]):
            last = number == len(inputs["passes"]) - 1
            # Gradients are averaged over processes, and once a step suffices; but with FSDP, those
            # that aren't shared out yet would be there whole.
            once = last or self.is_fsdp_enabled
            alone = contextlib.nullcontext() if once else self.accelerator.no_sync(model)
            with alone:
                with self._computing():
                    loss = model(**self._prepare_inputs(batch))
                loss = loss * (self.args.world_size / inputs["learned"])
                self.accelerator.backward(loss)
            total += loss.detach()
        self._keep(total)
        return total

    def _computing(self) -> contextlib.AbstractContextManager:
        """Autocast, which accelerate gives to all models but those of FSDP."""
        if self.args.bf16 and self.is_fsdp_enabled:
            return torch.autocast(self.args.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def _keep(self, total: torch.Tensor) -> None:
        loss = self.accelerator.reduce(total, "mean").item()
        rate = self._get_learning_rate()
        self.losses.append({"loss": loss, "learning_rate": rate})
        self._refuse(loss, "the loss")

    def _clip_grad_norm(self, model):
        norm = super()._clip_grad_norm(model)
        if norm is not None:
            self._refuse(float(norm), "the gradient's norm")
        if self.unproven is not None and self.is_world_process_zero():
            resume.prove(self.unproven)
        self.unproven = None
        return norm

    def _refuse(self, value: float, what: str) -> None:
        if math.isfinite(value):
            return
        step, ruined = self.state.global_step, self.unproven
        if ruined is not None and self.is_world_process_zero():
            resume.remove(ruined)
        ids = self.train_dataset.ids(step)
        told = ", ".join(ids[:16]) + (f" and {len(ids) - 16} more" if len(ids) > 16 else "")
        raise UserError(
            f"{self.name}: {what} is {value} at step {step + 1}; samples {told};"
            f" {self.last_good(but=ruined)}; lower the learning rate or look at these samples"
        )

    def last_good(self, but: Path | None = None) -> str:
        """Which checkpoint a training that stops here leaves, in words; not `but`."""
        points = [point for point in resume.points(self.args.output_dir) if point != but]
        return f"the last good checkpoint is {points[0]}" if points else "there is no checkpoint"

    def try_longest(self, beside: int) -> None:
        """Computes the largest pass once, before training, so that memory runs out at once or not.

        Where steps have several passes, gradients are there already, as before any pass but a
        step's first.

        Args:
            beside: bytes of what else will be there (the optimizer's states), held meanwhile.

        Raises:
            torch.OutOfMemoryError, MemoryError: it doesn't fit.
        """
        chosen, step = self.train_dataset.longest()
        batch = self.train_dataset.batch(chosen, step)
        model, devices = self.model, [self.args.device] if self.args.device.type == "cuda" else []
        held = torch.empty(beside, dtype=torch.uint8, device=self.args.device)
        with torch.random.fork_rng(devices=devices), self.accelerator.autocast(), memory_errors():
            try:
                if self.train_dataset.several_passes():
                    for parameter in model.parameters():
                        if parameter.requires_grad:
                            parameter.grad = torch.zeros_like(parameter)
                model.train()
                model(**self._prepare_inputs(batch)).backward()
            finally:
                del held
                model.zero_grad()
                if devices:
                    torch.cuda.empty_cache()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.args.should_save:
            resume.save_learned(self.learned(state_dict), output_dir or self.args.output_dir)

    def learned(self, state_dict: dict | None = None) -> dict[str, torch.Tensor]:
        """The learned tensors by name, gathered where they are spread over processes."""
        model = self.accelerator.unwrap_model(self.model)
        names = [name for name, p in model.named_parameters() if p.requires_grad]
        state = state_dict if state_dict is not None else dict(model.named_parameters())
        return {name: state[name] for name in names}

    def parts(self) -> int:
        """Parts of the model whose weights FSDP gathers one at a time; 0 without it."""
        return sum(isinstance(module, FSDPModule) for module in self.model.modules())

    def whole_state(self) -> dict[str, torch.Tensor]:
        """All tensors of the LLaVA model by name; every process must ask."""
        if self.is_fsdp_enabled:
            state = self.accelerator.get_state_dict(self.model)
        else:
            state = self.accelerator.unwrap_model(self.model).state_dict()
        # The loss wraps the model as `model`.
        return {name.removeprefix("model."): tensor for name, tensor in state.items()}

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            resume.load_learned(self.model, resume_from_checkpoint)

    def _save_checkpoint(self, model, trial) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        point = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        self.unproven = point
        if self.is_world_process_zero():
            resume.mark(point, self.recipe, self.losses, self.resumed, self.seconds)


def _first(items: list) -> dict:
    return items[0]


def thinned(losses: list[dict], steps_an_epoch: int, points: int = 100) -> list[dict]:
    """A curve of about `points` points, each the mean loss of a window of steps; less in the last.

    Returns:
        Rows `{step, epoch, loss, learning_rate}`; the rate is the window's last.
    """
    window = max(1, len(losses) // points)
    curve = []
    for start in range(0, len(losses), window):
        part = losses[start : start + window]
        step = start + len(part)
        curve.append(
            {
                "step": step,
                "epoch": round(step / steps_an_epoch, 4),
                "loss": sum(row["loss"] for row in part) / len(part),
                "learning_rate": part[-1]["learning_rate"],
            }
        )
    return curve
