"""A scratch copy of the repository, with a tiny study run to its figures once a session."""

import pytest
from checkouts import Checkout, copy


@pytest.fixture
def fresh(repository, tmp_path) -> Checkout:
    """A checkout in which nothing was run."""
    return copy(repository, tmp_path / "clone")


@pytest.fixture(scope="session")
def finished(repository, tmp_path_factory) -> Checkout:
    """A checkout in which the tiny study was run; tests only plan in it."""
    checkout = copy(repository, tmp_path_factory.mktemp("finished") / "clone")
    checkout.snakemake("--cores", "2", "--configfile", checkout.study("tiny"))
    return checkout
