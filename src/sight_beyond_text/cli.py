"""`sight`: every step the workflow calls, callable by hand.

The steps of a study take their spec as JSON: `sight spec` prints an alignment's, a run's or an
evaluation's. Heavy libraries are imported by the step that needs them.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sight_beyond_text.commands.cache import cache
from sight_beyond_text.commands.chat import chat
from sight_beyond_text.commands.corrupt import corrupt
from sight_beyond_text.commands.data import card, check_data, leaks
from sight_beyond_text.commands.explore import explore, pictures
from sight_beyond_text.commands.export import export
from sight_beyond_text.commands.fetch import fetch
from sight_beyond_text.commands.gc import gc
from sight_beyond_text.commands.import_checkpoint import import_checkpoint
from sight_beyond_text.commands.lm_eval import HANDED_ON, lm_eval
from sight_beyond_text.commands.score import score
from sight_beyond_text.commands.slurm import HANDED_ON as TO_SNAKEMAKE
from sight_beyond_text.commands.slurm import slurm
from sight_beyond_text.errors import UserError
from sight_beyond_text.leases import leased
from sight_beyond_text.locks import held
from sight_beyond_text.session import LAUNCHER, end_with, importing, prepare_torch, session

app = typer.Typer(
    help="Does training on images make a language model more truthful and ethical?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

SpecText = Annotated[str, typer.Argument(metavar="SPEC", help="The spec, as JSON; - reads it.")]
Log = Annotated[Path | None, typer.Option(help="Gets all output; errors are shown too.")]
Threads = Annotated[
    int | None, typer.Option(help="Threads of numerical libraries, over all processes.")
]
Gpus = Annotated[
    int | None,
    typer.Option(min=0, help="GPUs to wait for and compute on; one a process by default."),
]
Record = Annotated[Path, typer.Option(help="Completion record, written last.")]
Nodes = Annotated[
    int, typer.Option(min=1, help="Nodes of a SLURM job that a run's processes are spread over.")
]
TrainingRecord = Annotated[
    Path | None,
    typer.Option("--record", help="Completion record, written last; else the run's train.json."),
]
StudyFile = Annotated[Path, typer.Argument(help="A study file.")]


@app.command()
def plan(
    study: Annotated[
        Path | None, typer.Argument(help="A study file.", show_default="config.yaml")
    ] = None,
    configfile: Annotated[
        Path | None, typer.Option(help="The study file, named as for snakemake.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with everything.")] = False,
    costs: Annotated[bool, typer.Option("--costs", help="Tell more of what runs take.")] = False,
    gpu: Annotated[
        str | None, typer.Option(help="Reckon with this GPU of the table instead.")
    ] = None,
    discordance: Annotated[
        float | None,
        typer.Option(
            min=0.001, max=1, help="Share of answers that differ between two runs, if unmeasured."
        ),
    ] = None,
) -> None:
    """Lists the grid of a study, what was pruned and why, and what each run will take."""
    from sight_beyond_text import grid
    from sight_beyond_text import plan as planning
    from sight_beyond_text.study import read

    with session():
        if study is not None and configfile is not None and study != configfile:
            raise UserError(f"two study files, {study} and {configfile}; give one")
        path = configfile or study or Path("config.yaml")
        read_study = read(path)
        if gpu is not None:
            read_study = read_study.model_copy(update={"hardware": _hardware(read_study, gpu)})
        planned = planning.plan(read_study, discordance or planning.DISCORDANCE)
        print(planning.as_json(planned) if as_json else planning.as_table(planned, costs))
        grid.check_inputs(read_study, [path])


def _hardware(study, gpu: str):
    from sight_beyond_text.study import Hardware

    own = study.hardware or Hardware(gpu="own", memory_gib=1, tflops=1)
    return own.on(gpu)


@app.command()
def spec(
    name: Annotated[str, typer.Argument(help="An alignment's or run's id, or a folder of scores.")],
    study: StudyFile = Path("config.yaml"),
) -> None:
    """Prints the spec of a step, for `sight align`, `sight tune` or `sight evaluate`."""
    from sight_beyond_text import grid
    from sight_beyond_text.study import read

    with session():
        read_study = read(study)
        known = {made["id"]: made for made in grid.run_specs(read_study)}
        known |= {made["id"]: made for made in grid.align_specs(read_study)}
        known |= {made["folder"]: made for made in grid.evaluation_specs(read_study)}
        if name not in known:
            raise UserError(f"{study}: no step {name!r}; `sight plan {study}` lists the runs")
        print(known[name])


@app.command()
def schema(out: Annotated[Path | None, typer.Option(help="Write it here.")] = None) -> None:
    """Prints the JSON schema of study files."""
    from sight_beyond_text.files import write_text
    from sight_beyond_text.study import schema as make

    with session():
        text = json.dumps(make(), indent=2) + "\n"
        if out is None:
            sys.stdout.write(text)
        else:
            write_text(out, text)


micro = typer.Typer(help="Makes the micro world.", no_args_is_help=True)
app.add_typer(micro, name="micro")
Made = Annotated[Path, typer.Option(help="Completion record in the world's folder.")]


def _making(record: Path) -> contextlib.AbstractContextManager:
    """Waits for a step that outlived its Snakemake; two may not write one part of a world."""
    return held([record.with_name(f".{record.stem}")])


@micro.command("world")
def micro_world(settings: SpecText, record: Made, log: Log = None, threads: Threads = None) -> None:
    """Writes scenes, annotations, texts, benchmarks and the tokenizer."""
    with session(log, threads), _making(record):
        from sight_beyond_text.micro.world import write_world

        write_world(_spec(settings), record.parent, record)


@micro.command("tower")
def micro_tower(settings: SpecText, record: Made, log: Log = None, threads: Threads = None) -> None:
    """Trains the CLIP tower."""
    with session(log, threads), _making(record):
        with importing():
            prepare_torch(threads)
            from sight_beyond_text.micro.tower import train_tower

        world = record.parents[1]
        train_tower(_spec(settings), world, world / "models" / "tower", record)


@micro.command("base")
def micro_base(settings: SpecText, record: Made, log: Log = None, threads: Threads = None) -> None:
    """Pretrains micro-base."""
    with session(log, threads), _making(record):
        with importing():
            prepare_torch(threads)
            from sight_beyond_text.micro.pretrain import pretrain_base

        world = record.parents[1]
        pretrain_base(_spec(settings), world, world / "models" / "base", record)


@micro.command("chat")
def micro_chat(settings: SpecText, record: Made, log: Log = None, threads: Threads = None) -> None:
    """Tunes micro-base on text instructions: micro-chat."""
    with session(log, threads), _making(record):
        with importing():
            prepare_torch(threads)
            from sight_beyond_text.micro.pretrain import pretrain_chat

        world, models = record.parents[1], record.parent
        pretrain_chat(_spec(settings), world, models / "base", models / "chat", record)


@app.command()
def instructions(
    captions: Annotated[Path, typer.Option(help="COCO captions.")],
    images: Annotated[Path, typer.Option(help="Folder of the images.")],
    out: Annotated[Path, typer.Option(help="Folder for instructions.json, alignment.json.")],
    instances: Annotated[Path | None, typer.Option(help="COCO instances.")] = None,
    make: Annotated[str, typer.Option(help="Settings (data.make of a study), as JSON.")] = "{}",
    log: Log = None,
) -> None:
    """Makes LLaVA-style instructions and alignment pairs from COCO annotations, by rule."""
    with session(log):
        from sight_beyond_text.data.instructions import from_coco
        from sight_beyond_text.files import write_json
        from sight_beyond_text.study import Instructions

        settings = _checked(Instructions, _spec(make), "--make")
        made, pairs = from_coco(captions, instances, images, settings)
        if instances is not None:
            write_json(out / "instructions.json", made)
        write_json(out / "alignment.json", pairs)
        print(f"{len(made)} instructions, {len(pairs)} image and caption pairs in {out}")


@app.command()
def pope(
    captions: Annotated[Path, typer.Option(help="COCO captions (they list the images).")],
    instances: Annotated[Path, typer.Option(help="COCO instances.")],
    out: Annotated[Path, typer.Option(help="Question file to write (JSON lines).")],
    strategy: Annotated[str, typer.Option(help="random, popular or adversarial.")] = "adversarial",
    images: Annotated[int, typer.Option(min=1, help="Images to ask about, at most.")] = 500,
    pairs: Annotated[int, typer.Option(min=1, help="Questions with yes, and no, an image.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the choice.")] = 0,
) -> None:
    """Makes POPE questions from COCO annotations, by the benchmark's rule."""
    with session():
        from sight_beyond_text.data.coco import read_pictures
        from sight_beyond_text.data.pope import pope_questions
        from sight_beyond_text.files import write_json_lines

        rows = pope_questions(read_pictures(captions, instances), strategy, images, pairs, seed)
        write_json_lines(out, rows)
        print(f"{len(rows)} questions in {out}")


@app.command()
def check(inputs: SpecText, log: Log = None) -> None:
    """Reads a study's benchmarks and given instructions before anything is trained."""
    with session(log):
        from sight_beyond_text.data.checks import check_instructions
        from sight_beyond_text.evaluation.image_data import check_image
        from sight_beyond_text.evaluation.text_data import check_text

        read = _spec(inputs)
        checks = [(check_text, read.get("text", {})), (check_image, read.get("image", {}))]
        given = read.get("instructions", [])
        checks += [(check_instructions, path, read["images"]) for path in given]
        checks += [
            (check_instructions, own["path"], read["images"], own["layout"])
            for own in read.get("sources", [])
        ]
        if read.get("leakage") == "refuse":
            checks.append((_refuse_leaks, read))
        lines = []
        for checked, *arguments in checks:
            try:
                checked(*arguments)
            except UserError as error:
                lines.append(str(error))
        if lines:
            raise UserError("\n".join(lines))


def _refuse_leaks(read: dict) -> None:
    from sight_beyond_text.data.leakage import find_leaks, refusals

    lines = refusals(find_leaks(read["learned_from"], read["text"], read["image"]))
    if lines:
        raise UserError("\n".join(lines))


@app.command()
def features(
    settings: SpecText, log: Log = None, threads: Threads = None, gpus: Gpus = None
) -> None:
    """Computes what the vision tower makes of images, once for all that read them."""
    with session(log, threads), contextlib.ExitStack() as entered:
        read = _spec(settings)
        entered.enter_context(held([read["folder"]]))
        entered.enter_context(leased(1 if gpus is None else gpus))
        with importing():
            prepare_torch(threads)
            if "benchmarks" in read:
                from sight_beyond_text.evaluation.image_features import make_features
            else:
                from sight_beyond_text.models.features import make_features

        make_features(read)


@app.command()
def align(
    run: SpecText,
    record: TrainingRecord = None,
    log: Log = None,
    threads: Threads = None,
    gpus: Gpus = None,
    nodes: Nodes = 1,
) -> None:
    """Stage 1: trains a base's projector."""
    _train([run], record, log, threads, gpus, nodes)


@app.command()
def tune(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="SPEC...", help="One spec or several, as JSON; - reads lines of it."
        ),
    ],
    record: TrainingRecord = None,
    log: Log = None,
    threads: Threads = None,
    gpus: Gpus = None,
    nodes: Nodes = 1,
) -> None:
    """Stage 2: trains one run, or several one after the other.

    Of several, each gets its record as soon as it is trained; one that is trained isn't again.
    """
    _train(runs, record, log, threads, gpus, nodes)


def _train(
    runs: list[str],
    record: Path | None,
    log: Path | None,
    threads: int | None,
    gpus: int | None,
    nodes: int,
) -> None:
    specs: list[dict] = []
    with session():
        specs += [_spec(text) for text in (_lines() if runs == ["-"] else runs)]
        if record is not None and len(specs) > 1:
            raise UserError("--record: one for several specs; leave it out: each has its own")
        for spec in specs:
            if len(specs) > 1 and spec["training"]["processes"] > 1:
                raise UserError(
                    f"{spec['id']}: it takes several processes, and a command of its own"
                )
    from sight_beyond_text.training.launch import (
        is_one_of_several,
        is_one_of_several_nodes,
        launch,
    )

    # Several may run the same at once, each from a folder of their own: whoever comes second waits,
    # and then finds it finished.
    folders = [Path(spec["checkpoint"]).parent for spec in specs]
    processes = max(spec["training"]["processes"] for spec in specs)
    gpus = processes if gpus is None else gpus
    if processes > 1 and not is_one_of_several():
        # Who starts this on each node holds the folder for all.
        mine = [] if is_one_of_several_nodes() else folders
        with session(), held(mine), leased(gpus, processes):
            os.environ[LAUNCHER] = str(os.getpid())
            # Standard input is read already.
            given = [json.dumps(specs[0]) if word == "-" else word for word in sys.argv[1:]]
            launch(processes, given, nodes, threads)
        return
    if LAUNCHER in os.environ:
        end_with(int(os.environ[LAUNCHER]))
    each = threads and max(1, threads // processes)
    is_first = LAUNCHER not in os.environ and int(os.environ.get("RANK", 0)) == 0
    with session(log, each), held(folders if is_first else []), leased(gpus):
        with importing():
            prepare_torch(each)
            from sight_beyond_text.training.train import train

        for spec, folder in zip(specs, folders, strict=True):
            train(spec, record or folder / "train.json")


@app.command()
def evaluate(
    evaluations: Annotated[
        list[str],
        typer.Argument(
            metavar="SPEC...", help="One spec or several, as JSON; - reads lines of it."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for scores.parquet and items.parquet; else the spec's own."),
    ] = None,
    log: Log = None,
    threads: Threads = None,
    gpus: Gpus = None,
) -> None:
    """Scores runs, bases or references on the text or the image suite.

    Of several specs, those on text that share a base share one load of it. Each gets its tables as
    soon as it is done; one on text that is finished isn't scored again.
    """
    with session(log, threads), contextlib.ExitStack() as entered:
        specs = [_evaluation(text) for text in (_lines() if evaluations == ["-"] else evaluations)]
        if out is not None and len(specs) > 1:
            raise UserError("--out: one folder for several specs; leave it out: each has its own")
        entered.enter_context(held(out or spec["folder"] for spec in specs))
        entered.enter_context(leased(1 if gpus is None else gpus))
        suites = {spec["suite"] for spec in specs}
        with importing():
            prepare_torch(threads)
            from sight_beyond_text.models.checkpoints import verify

            if "text" in suites:
                from sight_beyond_text.evaluation.text import evaluate_texts
            if "image" in suites:
                from sight_beyond_text.evaluation.image import evaluate_image

        used = [spec["subject"]["checkpoint"] for spec in specs]
        used += [spec["subject"]["projector"] for spec in specs if spec["suite"] == "image"]
        records = {folder: verify(folder) for folder in dict.fromkeys(filter(None, used))}
        for spec in specs:
            # What tunes released weights is known only once they are imported.
            record = records.get(spec["subject"]["checkpoint"])
            if record is not None and spec["subject"]["mode"] is None:
                spec["subject"]["mode"] = record["recipe"]["mode"]
        folders = [(spec, out or spec["folder"]) for spec in specs]
        text = [pair for pair in folders if pair[0]["suite"] == "text"]
        if text:
            evaluate_texts(text)
        for spec, folder in folders:
            if spec["suite"] == "image":
                evaluate_image(spec, folder)


@app.command()
def compare(
    study: SpecText,
    tables: Annotated[Path, typer.Option(help="Folder for the tables.")],
    record: Record,
    log: Log = None,
) -> None:
    """Gathers all scores of a study into tidy tables, with paired effects."""
    with session(log):
        from sight_beyond_text.analysis.compare import compare as gather

        gather(_spec(study), tables, record)


@app.command()
def draw(
    figure: Annotated[str, typer.Argument(help="A figure's name, main_table or claims_table.")],
    tables: Annotated[Path, typer.Option(help="Folder of the study's tables.")],
    out: Annotated[Path, typer.Option(help="Path of the files, without suffix.")],
    record: Record,
    style: Annotated[str, typer.Option(help="Formats and style, as JSON.")] = "{}",
    page: Annotated[Path | None, typer.Option(help="HTML page of a table, for the report.")] = None,
    log: Log = None,
) -> None:
    """Draws one figure, or writes the main table, from the tables alone."""
    with session(log):
        from sight_beyond_text.cache import check as check_cache
        from sight_beyond_text.files import write_json

        check_cache(tables)
        if figure == "main_table":
            from sight_beyond_text.analysis.tables import write_main_table

            made = write_main_table(tables, out)
        elif figure == "claims_table":
            from sight_beyond_text.analysis.claims_table import write_claims_table

            made = write_claims_table(tables, out)
        else:
            from sight_beyond_text.figures.draw import draw_figure

            look = _spec(style)
            formats = look.pop("formats", ["svg", "png", "pdf"])
            made = draw_figure(figure, tables, out, formats, look)
        if page is not None:
            from sight_beyond_text.figures.page import write_page

            write_page(f"{out}.md", page, figure.replace("_", " "))
        if made.get("notice"):
            print(f"{figure}: {made['notice']}")
        write_json(record, made)


app.command()(card)
app.command()(chat)
app.command("check-data")(check_data)
app.command()(corrupt)
app.command()(explore)
app.command()(export)
app.command()(fetch)
app.command()(gc)
app.command("import")(import_checkpoint)
app.command()(leaks)
app.command()(pictures)
app.command("lm-eval", context_settings=HANDED_ON)(lm_eval)
app.add_typer(cache, name="cache")
app.add_typer(score, name="score")
app.command(context_settings=TO_SNAKEMAKE)(slurm)


def _spec(text: str) -> dict[str, Any]:
    # Linux takes no argument of more than 128 KiB; the workflow hands what may be longer to stdin.
    text = sys.stdin.read() if text == "-" else text
    try:
        made = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"not JSON: {text[:40]!r}: {error}; `sight spec` prints specs") from None
    if not isinstance(made, dict):
        raise UserError(f"not a JSON object: {text[:40]!r}; `sight spec` prints specs")
    return made


def _lines() -> list[str]:
    lines = sys.stdin.read().splitlines()
    if not lines:
        raise UserError("standard input: empty; it must hold a spec a line, as JSON")
    return lines


def _evaluation(text: str) -> dict[str, Any]:
    spec = _spec(text)
    missing = [key for key in ("subject", "suite", "folder", "benchmarks") if key not in spec]
    if missing:
        raise UserError(
            f"not the spec of an evaluation, it lacks {missing[0]!r}: {text[:40]!r};"
            " `sight spec` prints specs"
        )
    return spec


def _checked(model, values: dict, where: str) -> dict:
    from pydantic import ValidationError

    from sight_beyond_text.study_errors import describe

    try:
        return model.model_validate(values).model_dump()
    except ValidationError as error:
        lines = describe(error, model, []).splitlines()
        raise UserError("\n".join(f"{where}: {line}" for line in lines)) from None


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
