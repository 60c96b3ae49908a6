"""Fixtures and limits that all tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sight_beyond_text.session import importing

MAX_THREADS = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_MAX_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "RAYON_NUM_THREADS",
)


def _limit_threads() -> None:
    for variable in THREAD_VARIABLES:
        given = os.environ.get(variable, "")
        threads = int(given) if given.isdecimal() and int(given) > 0 else MAX_THREADS
        os.environ[variable] = str(min(threads, MAX_THREADS))


# Numerical libraries read these once, when they are imported; subprocesses inherit them.
_limit_threads()
# A test that would fetch something fails at once, whether or not there is a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# Nothing here compiles models, and bitsandbytes would load torch's compiler as it is imported.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Test files import the libraries; every process that shares the tests does so once."""
    with importing():
        return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The cluster first: it waits most of its time, and would be the last to end."""
    items.sort(key=lambda item: item.get_closest_marker("slurm") is None)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data(repository: Path) -> Path:
    """The folder of published data beside the checkout; without it, the test is skipped."""
    folder = repository.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside the repository: the published data is not here")
    return folder
