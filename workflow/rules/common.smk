# What the rules share: the study, its specs, where things lie, banners.
import atexit
import functools
import gc
import inspect
import shlex
import sys
from pathlib import Path

from snakemake.common import overwrite_function_params
from snakemake.exceptions import WorkflowError
from snakemake.settings.types import DeploymentMethod, ExecMode

from sight_beyond_text import cache, figure_names, grid, jobs, locks, reporting
from sight_beyond_text.errors import UserError
from sight_beyond_text.session import from_source
from sight_beyond_text.study import load

# A DAG is of millions of objects that stay; looking for garbage among them, again and again, takes
# a good part of a large grid's planning, and at the end a tenth.
gc.set_threshold(100_000, 50, 100)
atexit.register(gc.freeze)

# Jobs on a cluster live on when Snakemake is killed, so there its lock stays until `sight slurm`, or
# the user, has cancelled them.
if workflow.exec_mode == ExecMode.DEFAULT:
    locks.join(".snakemake", clear=workflow.resource_settings.nodes is None)

if str(config.get("from_cache", False)).lower() not in ("true", "false"):
    raise WorkflowError(
        f"from_cache: found {config['from_cache']!r}; allowed: true or false"
    )
FROM_CACHE = str(config.get("from_cache", False)).lower() == "true"

STUDY_FILES = [os.path.relpath(path) for path in workflow.configfiles]
try:
    STUDY = load({k: v for k, v in config.items() if k != "from_cache"}, STUDY_FILES)
    if FROM_CACHE:
        cache.read_layout(f"figures/data/{STUDY.name}")
    else:
        grid.check_inputs(STUDY, STUDY_FILES)
except UserError as error:
    raise WorkflowError(f"the study can't be used:\n{error}") from None

if DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method:
    # An environment of envs/ holds the libraries; `sight` itself comes from this repository.
    shell.prefix(from_source(Path(workflow.basedir) / "src"))

RESULTS = f"results/studies/{STUDY.name}"
TABLES = f"figures/data/{STUDY.name}"
DRAWINGS = f"figures/{STUDY.name}"
LAYOUT = f"{TABLES}/{cache.FILE}"
COMPARED = f"{RESULTS}/compare.json"
CHECKED = f"{RESULTS}/inputs.ok"
FIGURES = figure_names.figures(STUDY)
LISTED = ["main_table", "claims_table"] if STUDY.claims else ["main_table"]
# Captions and the front page of the HTML report read what they say here.
config["report"] = reporting.Report(STUDY, TABLES, DRAWINGS)

# Specs of all that is fetched by record, and the records of the hub's models by name.
RESOURCES = (
    {} if FROM_CACHE else {spec["record"]: spec for spec in grid.resource_specs(STUDY)}
)
HUB = {
    spec["name"]: record for record, spec in RESOURCES.items() if spec["folder"] is None
}
if all(benchmark.path for benchmark in STUDY.evaluation.text.values()):
    # All that comes from the hub is fetched first. Only lm-eval's own data sets come when they are
    # asked for, where a study gives no path.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Checkpoints that references name.
NAMED = {reference.checkpoint for reference in STUDY.references.values()}

# Specs by id; drawing from cached tables needs none.
RUNS, ALIGNMENTS, EVALUATIONS, FEATURES, IMPORTS = {}, {}, {}, {}, {}
INSTRUCTIONS = None
if not FROM_CACHE:
    RUNS = {spec["id"]: spec for spec in grid.run_specs(STUDY)}
    ALIGNMENTS = {spec["id"]: spec for spec in grid.align_specs(STUDY)}
    EVALUATIONS = {spec["folder"]: spec for spec in grid.evaluation_specs(STUDY)}
    FEATURES = {Path(spec["folder"]).name: spec for spec in grid.features_specs(STUDY)}
    IMPORTS = {spec["record"]: spec for spec in grid.import_specs(STUDY)}
    INSTRUCTIONS = grid.instructions_spec(STUDY)


def known(function):
    """A function whose parameters Snakemake needn't find out again for each of thousands of jobs."""
    overwrite_function_params(function, inspect.signature(function).parameters)
    return function


def record_of(checkpoint):
    """The completion record that stands for a checkpoint; one that is named is there already."""
    if f"{checkpoint}.json" in IMPORTS:
        return f"{checkpoint}.json"
    if checkpoint in NAMED:
        return ancient(f"{checkpoint}/{grid.COMPLETE}")
    return f"{os.path.dirname(checkpoint)}/train.json"


def made(path):
    """What to wait for before a path can be read: a record of the micro world, or the path."""
    world = STUDY.world
    if world is not None and path.startswith(f"{world}/models/"):
        return f"{world}/models/{path.split('/')[-1]}.json"
    if world is not None and path.startswith(f"{world}/"):
        return f"{world}/world.json"
    if path.startswith(f"{grid.FETCHED}/"):
        return f"{Path(*Path(path).parts[:3])}.json"
    if path.startswith("resources/"):
        return path
    if path in HUB:
        return HUB[path]
    # Given files are known by their content, which is part of the ids, so their dates mean
    # nothing. What is no file here is a hub id.
    return ancient(path) if os.path.exists(path) else []


def waited_for(paths):
    """What to wait for before some paths can be read, each once: most have a record in common."""
    found = {}
    for path in paths:
        waits = made(path)
        if waits:
            found.setdefault(str(waits), waits)
    return list(found.values())


def training_inputs(spec):
    """What a training waits for, besides its alignment."""
    data = spec["data"]
    paths = [
        spec["base"]["model"],
        spec["tower"]["model"],
        data["instructions"],
        data["images"],
    ]
    if spec["source"]["form"] == "caption":
        paths.append(data["captions"])
    paths += [*data.get("kinds", {}).values()]
    paths += [data[key] for key in ("instances", "leaks") if key in data]
    if spec["features"] is not None:
        paths.append(f"{spec['features']}/features.json")
    return waited_for(paths)


def import_inputs(spec):
    """What an import waits for: the released weights and the base's configuration."""
    # A folder of one's own may be another at any time; its files' content is in the ids.
    released = HUB[spec["source"]] if spec["local"] is None else []
    return [released, *waited_for([spec["base"]["model"]])]


def features_inputs(spec):
    """What the tower's features wait for."""
    if "benchmarks" in spec:
        return waited_for([spec["tower"]["model"], *benchmark_files("image")])
    return waited_for([spec["tower"]["model"], spec["images"], *spec["instructions"]])


@known
def alignment_of(wildcards):
    """The spec of an alignment, by its id."""
    return ALIGNMENTS[wildcards.alignment]


@known
def run_of(wildcards):
    """The spec of a run, by its id."""
    return RUNS[wildcards.run]


def first(specs):
    """The first of a job's specs, as `asked` takes it."""
    return lambda wildcards: specs[0]


@known
def features_of(wildcards):
    """The spec of a cache of features, by the end of its folder's name."""
    return FEATURES[wildcards.key]


@known
def evaluation_of(wildcards):
    """The spec behind an evaluation's folder."""
    return EVALUATIONS[
        f"results/runs/{wildcards.subject}/{wildcards.suite}-{wildcards.key}"
    ]


def evaluation_inputs(spec):
    """What an evaluation waits for: weights, projector, tower, benchmarks."""
    subject = spec["subject"]
    paths = [subject["base"]["model"], *benchmark_files(spec["suite"])]
    records = [subject["checkpoint"]] if subject["checkpoint"] is not None else []
    if spec["suite"] == "image":
        records.append(subject["projector"])
        paths += [subject["tower"]["model"], f"{spec['features']}/features.json"]
    return [*waited_for(paths), *map(record_of, dict.fromkeys(records))]


@functools.cache
def benchmark_files(suite):
    """Paths that the benchmarks of a suite are read from."""
    benchmarks = grid.benchmarks(STUDY, suite).values()
    keys = ("path", "images", "questions", "annotations")
    return sorted(
        {entry[key] for entry in benchmarks for key in keys if entry.get(key)}
    )


def benchmark_inputs(suite):
    """What to wait for before the benchmarks of a suite can be read."""
    return waited_for(benchmark_files(suite))


def checked_inputs():
    """What the check of given instructions waits for: all that is fetched or made of it."""
    spec = grid.check_spec(STUDY)
    paths = [*spec["instructions"], *(own["path"] for own in spec.get("sources", []))]
    paths += [spec["images"], *spec.get("learned_from", {})]
    return sorted({made(path) for path in paths if path.startswith("resources/")})


def asked(rule, what, spec_of=lambda wildcards: {}):
    """What a job asks for (`gpu`, `threads`, `mem_mb`, `runtime`), as its rule takes it.

    What is alike in all of a rule's jobs and attempts is told as a number, which Snakemake needn't
    ask each job for. Only trainings may have several processes.
    """
    of = {"align": [STUDY.alignment], "tune": STUDY.tunings.values()}.get(rule, [])
    processes = {training.processes for training in of} or {1}
    if what in ("gpu", "threads") and len(processes) == 1:
        alike = {"training": {"processes": processes.pop()}}
        return jobs.asked(STUDY, rule, alike)[what]

    def of_job(wildcards, attempt):
        return jobs.asked(STUDY, rule, spec_of(wildcards), attempt)[what]

    return known(of_job)


def evaluation_tables(specs):
    """The score and item tables of evaluations."""
    folders = [spec["folder"] for spec in specs]
    return [
        f"{folder}/{table}.parquet"
        for folder in folders
        for table in ("scores", "items")
    ]


def coco_options():
    """The COCO files that instructions are made from, as options of `sight instructions`."""
    keys = [key for key in ("captions", "images", "instances") if INSTRUCTIONS[key]]
    return " ".join(f"--{key} {shlex.quote(INSTRUCTIONS[key])}" for key in keys)


def tables():
    """The study's tables, all that figures are drawn from."""
    names = ("runs.csv", "scores.csv", "items.parquet", "curves.csv", "effects.csv")
    names += ("over_seeds.csv", "intervals.csv", "claims.csv", "published.csv")
    return [f"{TABLES}/{name}" for name in names]


def pictures():
    """The pictures that the explorer shows; a cache of before there were any has none."""
    path = f"{TABLES}/images.parquet"
    return [path] if not FROM_CACHE or os.path.exists(path) else []


def drawing(kind):
    """A figure's file of one kind; the report shows one of them."""
    path = f"{DRAWINGS}/{{figure}}.{kind}"
    if kind != next(
        kind for kind in ("svg", "png", "pdf") if kind in STUDY.figures.formats
    ):
        return path
    return report(
        path,
        caption="../report/result.rst",
        category="Figures",
        subcategory=lambda wildcards: reporting.FIGURES[wildcards.figure][0],
        labels=lambda wildcards: {"figure": reporting.FIGURES[wildcards.figure][1]},
    )


def drawn():
    """All figures and tables for readers, each with its record."""
    files = [
        f"{DRAWINGS}/{name}.{kind}" for name in LISTED for kind in ("csv", "md", "tex")
    ]
    files += [f"{RESULTS}/{name}.html" for name in LISTED]
    files += [
        f"{DRAWINGS}/{name}.{kind}"
        for name in FIGURES
        for kind in STUDY.figures.formats
    ]
    files.append(f"{DRAWINGS}/explorer.html")
    return files + [
        f"{RESULTS}/{name}.json" for name in (*FIGURES, *LISTED, "explorer")
    ]


def say(text):
    """Tells the user something, beside Snakemake's own messages."""
    print(text, file=sys.stderr)


onstart:
    if FROM_CACHE:
        say(f"Study {STUDY.name}: drawing from {TABLES}; nothing else is done.")
    else:
        say(
            f"Study {STUDY.name}: {len(RUNS)} runs (bases {', '.join(STUDY.bases)};"
            f" sources {', '.join(STUDY.sources)}; tunings {', '.join(STUDY.tunings)};"
            f" seeds {', '.join(map(str, STUDY.seeds))})."
        )
    if left_out := figure_names.notice(STUDY):
        say(left_out)
    say(f"Logs of all steps: logs/, laid out like results/. Figures: {DRAWINGS}/")


onsuccess:
    say(
        f"Study {STUDY.name} is done. Figures and tables: {DRAWINGS}/, their data: {TABLES}/"
    )


onerror:
    say(
        f"Study {STUDY.name} stopped at an error: it stands above, after 'error:', and in the"
        " step's log under logs/. What was finished is kept: mend it, and type the same again."
    )
