"""What the jobs of a study ask of Snakemake and SLURM: GPUs, cores, memory, time. Light."""

from __future__ import annotations

from collections.abc import Mapping

from sight_beyond_text.study import Study

DEFAULTS = {
    True: {"threads": 4, "mem_mb": 32_000, "runtime": 480},
    False: {"threads": 1, "mem_mb": 4_000, "runtime": 120},
}
"""With a GPU a process, and without: threads and MB of each process, minutes of the job."""


def asked(study: Study, rule: str, spec: Mapping, attempt: int = 1) -> dict[str, int]:
    """The resources of one job.

    Args:
        study: the study, whose `jobs` come before the defaults.
        rule: `align`, `tune`, `evaluate` or `cache_features`.
        spec: the job's spec.
        attempt: from 1; each asks for as much memory and time again.

    Returns:
        `gpu` (one a process, or 0), `threads`, `mem_mb`, and `runtime` in minutes.
    """
    processes = spec["training"]["processes"] if "training" in spec else 1
    own = getattr(study.jobs, rule).model_dump(exclude_none=True)
    each = {**DEFAULTS[study.jobs.gpu], **own}
    return {
        "gpu": processes if study.jobs.gpu else 0,
        "threads": processes * each["threads"],
        "mem_mb": processes * each["mem_mb"] * attempt,
        "runtime": each["runtime"] * attempt,
    }
