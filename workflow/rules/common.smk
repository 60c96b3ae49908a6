# What the rules share: the study, its specs, where things lie, banners.
import sys

from snakemake.exceptions import WorkflowError

from sight_beyond_text import grid
from sight_beyond_text.errors import UserError
from sight_beyond_text.study import load

FROM_CACHE = str(config.get("from_cache", False)).lower() in ("true", "1", "yes")

try:
    STUDY = load(
        {key: value for key, value in config.items() if key != "from_cache"},
        [os.path.relpath(path) for path in workflow.configfiles],
    )
    if not FROM_CACHE:
        grid.check_inputs(STUDY)
except UserError as error:
    raise WorkflowError(f"the study can't be used:\n{error}") from None

RESULTS = f"results/studies/{STUDY.name}"
TABLES = f"figures/data/{STUDY.name}"
DRAWINGS = f"figures/{STUDY.name}"
COMPARED = f"{RESULTS}/compare.json"
FIGURES = (
    "truthfulness_ethics",
    "sources",
    "tunings",
    "price",
    "image_benchmarks",
    "training_curves",
)

if FROM_CACHE:
    RUNS, ALIGNMENTS, SUBJECTS = {}, {}, {}
else:
    _specs = [grid.run_spec(STUDY, cell) for cell in STUDY.cells()[0]]
    RUNS = {spec["id"]: spec for spec in _specs}
    _specs = [grid.align_spec(STUDY, base, seed) for base in STUDY.bases for seed in STUDY.seeds]
    ALIGNMENTS = {spec["id"]: spec for spec in _specs}
    SUBJECTS = {subject["id"]: subject for subject in grid.subjects(STUDY)}


def training_record(spec):
    """Where an alignment's or a run's completion record lies."""
    return f"{os.path.dirname(spec['checkpoint'])}/train.json"


def made(path):
    """The record to wait for, where the micro world makes a path; else the path itself."""
    world = STUDY.world
    if world is None or not path.startswith(f"{world}/"):
        return path if os.path.exists(path) or path.startswith("resources/") else []
    part = path.removeprefix(f"{world}/")
    if part.startswith("models/"):
        return f"{world}/models/{part.split('/')[1]}.json"
    return f"{world}/world.json"


def training_inputs(spec):
    """Files that a training waits for."""
    data = spec["data"]
    paths = [spec["base"]["model"], spec["tower"]["model"], data["instructions"], data["images"]]
    if spec["source"]["form"] == "caption":
        paths.append(data["captions"])
    return [made(path) for path in paths]


def evaluations(subject):
    """The evaluation specs of a subject that have something to score."""
    specs = [grid.evaluation_spec(STUDY, subject, suite) for suite in ("text", "image")]
    return [spec for spec in specs if spec["benchmarks"]]


def evaluation_tables():
    """All score and item tables of the study."""
    return [
        f"{spec['folder']}/{table}.parquet"
        for subject in SUBJECTS.values()
        for spec in evaluations(subject)
        for table in ("scores", "items")
    ]


def benchmark_specs():
    """The benchmarks of both suites with their paths resolved."""
    suites = {}
    for suite in ("text", "image"):
        specs = [grid.evaluation_spec(STUDY, subject, suite) for subject in SUBJECTS.values()]
        suites[suite] = max((spec["benchmarks"] for spec in specs), key=len)
    return grid.Spec(suites)


def benchmark_inputs(suite=None):
    """Files that the benchmarks of a suite (of both by default) are read from."""
    paths = {
        benchmark[key]
        for name, benchmarks in benchmark_specs().items()
        if suite in (None, name)
        for benchmark in benchmarks.values()
        for key in ("path", "images", "questions", "annotations")
        if benchmark.get(key)
    }
    return [made(path) for path in sorted(paths)]


def tables():
    """The tables of the study."""
    names = ("runs.csv", "scores.csv", "items.parquet", "curves.csv", "effects.csv")
    return [f"{TABLES}/{name}" for name in (*names, "intervals.csv")]


def _count(number, name):
    return f"{number} {name}{'' if number == 1 else 's'}"


def _say(text):
    print(text, file=sys.stderr)


onstart:
    if FROM_CACHE:
        _say(f"Study {STUDY.name}: drawing from {TABLES}; nothing is trained or scored.")
    else:
        _say(
            f"Study {STUDY.name}: {_count(len(RUNS), 'run')} of {_count(len(STUDY.bases), 'base')},"
            f" {_count(len(STUDY.sources), 'source')}, {_count(len(STUDY.tunings), 'tuning')},"
            f" {_count(len(STUDY.seeds), 'seed')}."
        )
    _say("Logs of all steps: logs/, laid out like results/. Figures: " + DRAWINGS)


onsuccess:
    _say(f"Study {STUDY.name} is done. Figures and tables: {DRAWINGS}, their data: {TABLES}")


onerror:
    _say(
        f"Study {STUDY.name} stopped at an error. What it was stands above, after 'error:', and in"
        " the step's log under logs/. What was finished is kept: mend it and type the same again."
    )
