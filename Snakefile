# Sight Beyond Text: one study file, from training to figures.
from snakemake.utils import min_version

min_version("9.27")

if not workflow.overwrite_configfiles:

    configfile: "config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"


# With from_cache the figures' tables are at hand, and nothing that could make them is in the DAG.
if not FROM_CACHE:

    include: "workflow/rules/resources.smk"
    include: "workflow/rules/micro.smk"
    include: "workflow/rules/align.smk"
    include: "workflow/rules/tune.smk"
    include: "workflow/rules/evaluate.smk"
    include: "workflow/rules/compare.smk"


include: "workflow/rules/draw.smk"


if not FROM_CACHE:

    localrules:
        fetch_all,

    rule fetch_all:
        """Fetches everything that the study needs, on the machine that has a line."""
        input:
            list(RESOURCES),

    rule train_all:
        """Trains every run of the grid."""
        input:
            CHECKED,
            [record_of(spec["checkpoint"]) for spec in RUNS.values()],

    rule evaluate_all:
        """Scores every run, base and reference."""
        input:
            CHECKED,
            evaluation_tables(EVALUATIONS.values()),
            COMPARED,


rule all:
    """The whole study, to its figures and tables."""
    default_target: True
    input:
        [] if FROM_CACHE else [CHECKED, COMPARED],
        drawn(),


rule figures:
    """All figures and tables of the study."""
    input:
        drawn(),
