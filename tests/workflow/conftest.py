"""A scratch copy of the repository, with a tiny study run to its figures once a session."""

import os
import shutil

import pytest
from checkouts import Checkout, copy
from filelock import FileLock


@pytest.fixture
def fresh(repository, tmp_path) -> Checkout:
    """A checkout in which nothing was run."""
    return copy(repository, tmp_path / "clone")


@pytest.fixture(scope="session")
def finished(repository, tmp_path_factory) -> Checkout:
    """A checkout in which the tiny study was run; tests only plan in it.

    The processes that share the tests share it: it is run once, by the first that asks for it.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with FileLock(shared / "finished.lock"):
        folder, done = shared / "finished" / "clone", shared / "finished" / "done"
        if done.exists():
            return Checkout(folder)
        shutil.rmtree(folder, ignore_errors=True)
        checkout = copy(repository, folder)
        checkout.snakemake("--cores", "2", "--configfile", checkout.study("tiny"))
        done.touch()
    return checkout
