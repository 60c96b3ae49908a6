"""lm-eval's own tasks, on local files or the hub, under one of two protocols.

"current": the tasks of the installed lm-eval as they are, MMLU with 5 shots. "published": the
settings of Tu et al. (2023), whose harness of August 2023 added no token at the beginning and
ended answers otherwise; their MMLU was a generation of two tokens.
"""

from __future__ import annotations

import difflib
import logging
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import datasets
import lm_eval.api.task
import lm_eval.utils
import numpy as np
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.tasks import TaskManager
from tqdm import tqdm

from sight_beyond_text.errors import UserError
from sight_beyond_text.evaluation.text_data import (
    LETTERS,
    READERS,
    Splits,
    built_in,
    default_shots,
    is_mirror,
    is_subject,
    mmlu_configurations,
    read_benchmark,
    runs_code,
)
from sight_beyond_text.evaluation.text_metrics import METRICS

FEWSHOT_SEED = DEFAULT_OTHER_SEED
"""lm-eval's default; the same examples for every run."""

FOLDERS = {
    "truthfulqa": "truthfulqa",
    "ethics": "hendrycks_ethics",
    "mmlu": "mmlu/default",
    "gsm8k": "gsm8k",
    "boolq": "super_glue/boolq",
    "mathqa": "mathqa",
    "squadv2": "squadv2",
}
"""Where lm-eval keeps a family of tasks; reading all of its folders would take seconds."""


@dataclass(frozen=True)
class Protocol:
    """How tasks are put to the models.

    Attributes:
        bos: whether a prompt begins with the tokenizer's first token; None as it does by itself.
        settings: of lm-eval's tasks that differ from today's, by task; "mmlu" for its subjects.
        main: the metric@filter whose scores are the items', where it isn't the first.
    """

    bos: bool | None
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    main: Mapping[str, str] = field(default_factory=dict)


def _begins_with_letter(doc: Mapping[str, Any], results: list[str]) -> dict[str, float]:
    return {"acc": float(results[0].strip().startswith(LETTERS[doc["answer"]]))}


_MAIN = {"gsm8k": "exact_match@flexible-extract", "truthfulqa_gen": "bleu_acc@none"}

PROTOCOLS = {
    "current": Protocol(bos=None, main=_MAIN),
    "published": Protocol(
        bos=False,
        settings={
            "truthfulqa_gen": {"generation_kwargs": {"until": ["."], "do_sample": False}},
            "gsm8k": {
                "generation_kwargs": {
                    "until": [":", "Question:", "Question"],
                    "do_sample": False,
                }
            },
            "mmlu": {
                "output_type": "generate_until",
                "doc_to_choice": None,
                "doc_to_target": "{{['A', 'B', 'C', 'D'][answer]}}",
                "generation_kwargs": {"until": ["\n"], "max_gen_toks": 2, "do_sample": False},
                "process_results": _begins_with_letter,
            },
        },
        main={**_MAIN, "gsm8k": "exact_match@strict-match"},
    ),
}


@dataclass(frozen=True)
class Job:
    """One lm-eval task of one benchmark.

    Attributes:
        benchmark: the benchmark's name in the study.
        task: lm-eval's name.
        built: lm-eval's object, its data loaded.
        limit: how many items, from the first.
        prefix: of the items' ids.
        group: MMLU's group ("stem", ...); "" for others.
        main: the metric@filter whose scores are the items'; None for the first one.
    """

    benchmark: str
    task: str
    built: lm_eval.api.task.Task
    limit: int
    prefix: str
    group: str
    main: str | None


def load_jobs(benchmarks: Mapping[str, Mapping[str, Any]], protocol: str) -> list[Job]:
    """Makes lm-eval's tasks of the study's benchmarks and loads their data.

    Args:
        benchmarks: by name: `{task, path, fewshot, limit}`.
        protocol: a key of `PROTOCOLS`.

    Raises:
        UserError: local files are broken, a task is unknown or its data can't be loaded.
    """
    # Local files first: the hub may take minutes, and a broken file would be told only then.
    local = {
        name: read_benchmark(name, {**entry, "fewshot": _shots(name, entry, protocol)})
        for name, entry in benchmarks.items()
        if entry.get("path") and _is_read(name, entry)
    }
    jobs = []
    managers: dict[str, TaskManager] = {}
    for name, entry in benchmarks.items():
        task, shots = entry.get("task") or name, entry.get("fewshot")
        manager = _manager(task, managers)
        if task not in manager.task_index:
            near = difflib.get_close_matches(task, manager.all_tasks, 1)
            guess = f"did you mean {near[0]!r}?" if near else "see its list of tasks"
            raise UserError(f"evaluation.text.{name}.task: lm-eval has no task {task!r}; {guess}")
        seed()
        if name in local:
            built = {}
            for part, splits in local[name].items():
                with _data(lambda *_, splits=splits: _from_rows(splits)):
                    built |= _build(manager, name, part, protocol)["tasks"]
        else:
            loaded = _fetch(manager, name, entry, protocol)
            built = loaded["tasks"]
            _check_weights(name, loaded, entry.get("limit"))
        for part, made in built.items():
            _set_shots(name, part, made, shots, protocol)
            _fix_docs(made)
            total, limit = len(made.eval_docs), entry.get("limit")
            jobs.append(
                Job(
                    benchmark=name,
                    task=part,
                    built=made,
                    limit=min(limit or total, total),
                    prefix=name if len(built) == 1 and task != "mmlu" else _part(task, part),
                    group=_group(manager, part) if task == "mmlu" else "",
                    main=PROTOCOLS[protocol].main.get(part),
                )
            )
    return jobs


def _is_read(name: str, entry: Mapping[str, Any]) -> bool:
    """Whether local files are in the authors' layout; else they are a copy of the hub's."""
    return (entry.get("task") or name) in READERS and not is_mirror(Path(entry["path"]))


def _shots(name: str, entry: Mapping[str, Any], protocol: str) -> int | None:
    given = entry.get("fewshot")
    return default_shots(entry.get("task") or name, protocol) if given is None else given


def _part(task: str, part: str) -> str:
    return part.removeprefix("mmlu_") if task == "mmlu" else part


def _manager(task: str, known: dict[str, TaskManager]) -> TaskManager:
    """lm-eval's tasks: those of one family where it is known, else all.

    Args:
        task: lm-eval's name.
        known: those that were read before, by folder; grows.
    """
    # The root is the MMLU folder's grandparent; every family lies below it.
    root = mmlu_configurations().parents[1]
    for folder in (FOLDERS.get(task.partition("_")[0]), ""):
        if folder is None:
            continue
        if folder not in known:
            known[folder] = TaskManager(include_defaults=False, include_path=root / folder)
        if task in known[folder].task_index:
            break
    return known[folder]


def _group(manager: TaskManager, task: str) -> str:
    """The group of an MMLU subject, by lm-eval's tag."""
    tag = manager.task_index[task].cfg["tag"]
    return tag.removeprefix("mmlu_").removesuffix("_tasks")


def _build(manager: TaskManager, name: str, task: str, protocol: str) -> dict:
    """What lm-eval loads for a task, group or tag, each task with the protocol's settings."""
    factory = manager._factory
    real = factory._build_task

    def build(entry, overrides):
        if entry.cfg and entry.cfg.get("unsafe_code"):
            raise UserError(runs_code(name, entry.name))
        settings = PROTOCOLS[protocol].settings.get(_family(entry.name), {})
        # What changes a whole group also gives all of its tasks the group's name.
        return real(entry, {**(overrides or {}), **settings, "task": entry.name})

    with _replaced(factory, "_build_task", build):
        return manager.load(task)


def _check_weights(name: str, loaded: Mapping[str, Any], limit: int | None) -> None:
    """Refuses a group whose score is no mean over its items."""
    sizes = {len(made.eval_docs) for made in loaded["tasks"].values()}
    if len({min(limit or size, size) for size in sizes}) < 2:
        return
    # lm-eval puts the group itself before those within it.
    for group in list(loaded["groups"].values())[:1]:
        if any(not metric.weight_by_size for metric in group.aggregate_metric_list or []):
            raise UserError(
                f"evaluation.text.{name}: lm-eval weighs the tasks of {group.name!r} equally,"
                " whatever their size; scores here are means over items: name its tasks one by"
                " one, or set a limit that all of them have"
            )


def _family(task: str) -> str:
    """What a task is called in protocols: "mmlu" for each of its subjects."""
    return "mmlu" if is_subject(task) else task


def _from_rows(splits: Splits) -> dict[str, datasets.Dataset]:
    return {split: datasets.Dataset.from_list(rows) for split, rows in splits.items()}


def _fetch(manager: TaskManager, name: str, entry: Mapping[str, Any], protocol: str) -> dict:
    """What lm-eval loads for a name, on a local copy of the hub's data or on the hub."""
    task, path = entry.get("task") or name, entry.get("path")
    try:
        if path is None:
            return _build(manager, name, task, protocol)
        with _data(partial(_from_mirror, Path(path))):
            return _build(manager, name, task, protocol)
    except UserError:
        raise
    except Exception as error:  # What a hub client raises has no common base.
        told = f"({type(error).__name__}: {' '.join(str(error).split())[:120]})"
        if path is not None:
            raise UserError(
                f"{path}: no data of {task!r} can be read there {told}; fetch its dataset again,"
                f" or check evaluation.text.{name}.path"
            ) from error
        raise UserError(
            f"evaluation.text.{name}: can't load {task!r} from the hub {told}; connect, or give a"
            " path with its files"
        ) from error


def _from_mirror(folder: Path, repository: str, configuration: str | None) -> Any:
    """A dataset from a folder: `save_to_disk`'s, or a copy of its repository on the hub."""
    if (folder / repository).is_dir():
        folder = folder / repository
    part = folder / (configuration or "")
    for saved in (part, folder):
        if (saved / "dataset_dict.json").is_file():
            return datasets.load_from_disk(str(saved))
    # The hub's own page of a dataset says which files are which.
    if (folder / "README.md").is_file() or not part.is_dir():
        return datasets.load_dataset(str(folder), configuration)
    return datasets.load_dataset(str(part))


@contextmanager
def _data(source: Callable[[str, str | None], Any]) -> Iterator[None]:
    """Tasks built meanwhile get their data from `source(dataset, configuration)`."""
    real = datasets.load_dataset

    def load_dataset(path=None, name=None, **_):
        # The source itself may read files with it.
        with _replaced(datasets, "load_dataset", real):
            return source(path, name)

    with _replaced(datasets, "load_dataset", load_dataset):
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    old = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, old)


def _set_shots(name: str, task: str, made, shots: int | None, protocol: str) -> None:
    # lm-eval marks tasks whose examples are built in with 0 shots, and never changes those.
    if made.get_config("num_fewshot") == 0:
        if shots:
            raise UserError(built_in(name, task))
        return
    if shots is None:
        shots = default_shots(_family(task), protocol)
    if shots is not None:
        made.set_config(key="num_fewshot", value=shots)
    elif made.get_config("num_fewshot") is None:
        made.set_config(key="num_fewshot", value=0)


def _fix_docs(made) -> None:
    """Draws a task's questions once: lm-eval makes them anew, shuffled, each time it needs them."""
    for split in ("test_docs", "validation_docs"):
        setattr(made, split, cache(_seeded(getattr(made, split))))


def _seeded(draw: Callable[[], Any]) -> Callable[[], Any]:
    def drawn():
        seed()
        return draw()

    return drawn


def seed() -> None:
    """Seeds Python's and NumPy's random numbers as lm-eval's own `simple_evaluate` does."""
    random.seed(DEFAULT_RANDOM_SEED)
    np.random.seed(DEFAULT_OTHER_SEED)


@contextmanager
def harness() -> Iterator[None]:
    """lm-eval without its warnings, its bar for each task, and its fetching of metrics.

    Questions that tasks shuffle are drawn alike in each process: random numbers are seeded
    meanwhile (and are as before afterwards), and no earlier draw is taken from a disk cache.
    """
    logger = logging.getLogger("lm_eval")
    level, bars = logger.level, datasets.is_progress_bar_enabled()
    states, caching = (random.getstate(), np.random.get_state()), datasets.is_caching_enabled()
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    datasets.disable_caching()
    env = lm_eval.utils.env
    with ExitStack() as stack:
        stack.enter_context(_replaced(lm_eval.api.task, "tqdm", partial(tqdm, disable=True)))
        # The harness compiles the task's few templates anew for every question and example.
        stack.enter_context(_replaced(env, "from_string", cache(env.from_string)))
        stack.enter_context(offline_metrics())
        try:
            yield
        finally:
            logger.setLevel(level)
            random.setstate(states[0])
            np.random.set_state(states[1])
            if caching:
                datasets.enable_caching()
            if bars:
                datasets.enable_progress_bars()


@contextmanager
def offline_metrics() -> Iterator[None]:
    """Meanwhile `evaluate.load` gives our own metrics where we have them.

    Raises:
        UserError: a task asks for another one and it can't be fetched.
    """
    import evaluate

    fetch = evaluate.load

    def load(path, *args, **kwargs):
        if path in METRICS:
            return METRICS[path]()
        try:
            return fetch(path, *args, **kwargs)
        except Exception as error:  # What a hub client raises has no common base.
            raise UserError(
                f"lm-eval's task needs the metric {path!r}, which is fetched from the hub"
                f" ({type(error).__name__}); connect, or leave the benchmark out"
            ) from error

    with _replaced(evaluate, "load", load):
        yield
