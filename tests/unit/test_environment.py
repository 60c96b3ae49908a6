"""The places that name versions agree with each other, and with what is installed."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import sight_beyond_text

LAYERS = ("train", "evaluate", "draw")


def exact_version(requirement: Requirement) -> str:
    """The version of `name==version`; fails for anything looser."""
    (specifier,) = requirement.specifier
    assert specifier.operator == "==" and "*" not in specifier.version, f"not pinned: {requirement}"
    return specifier.version


def pins(lines: list[str]) -> dict[str, str]:
    requirements = [Requirement(line) for line in lines]
    return {canonicalize_name(r.name): exact_version(r) for r in requirements}


@pytest.fixture(scope="module")
def constraint_lines(repository: Path) -> list[str]:
    lines = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def constraints(constraint_lines: list[str]) -> dict[str, str]:
    return pins(constraint_lines)


@pytest.fixture(scope="module")
def project(repository: Path) -> dict:
    return tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def environment(repository: Path, layer: str) -> dict:
    return yaml.safe_load((repository / "envs" / f"{layer}.yaml").read_text(encoding="utf-8"))


def pip_lines(repository: Path, layer: str) -> list[str]:
    dependencies = environment(repository, layer)["dependencies"]
    (section,) = [entry["pip"] for entry in dependencies if isinstance(entry, dict)]
    return section


def test_constraints_are_plain_sorted_pins(constraint_lines, constraints):
    for line in constraint_lines:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line), f"not a plain pin: {line}"
    assert len(constraints) == len(constraint_lines), "a package is pinned twice"
    assert list(constraints) == sorted(constraints)


def test_constraints_hold_no_addresses(repository):
    text = (repository / "constraints.txt").read_text(encoding="utf-8")
    assert "://" not in text
    assert " @ " not in text
    assert not re.search(r"^\s*-", text, flags=re.MULTILINE), "an option or an editable line"


def test_dependencies_are_pinned_within_their_ranges(project, constraints):
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    for line in (line for group in groups for line in group):
        requirement = Requirement(line)
        version = constraints.get(canonicalize_name(requirement.name))
        assert version is not None, f"constraints.txt lacks {requirement.name}"
        assert requirement.specifier.contains(version, prereleases=True), f"{line}, but {version}"


@pytest.mark.parametrize("layer", LAYERS)
def test_conda_environments_repeat_the_pins(repository, constraints, layer):
    listed = pins(pip_lines(repository, layer))
    assert listed == {name: constraints.get(name) for name in listed}


@pytest.mark.parametrize("layer", LAYERS)
def test_conda_environments_use_the_oldest_supported_python(repository, project, layer):
    oldest = project["requires-python"].removeprefix(">=")
    assert f"python={oldest}" in environment(repository, layer)["dependencies"]


def test_conda_environments_hold_every_dependency_but_the_workflow_engine(repository, project):
    listed = {name for layer in LAYERS for name in pins(pip_lines(repository, layer))}
    lines = [*project["dependencies"], *project["optional-dependencies"]["captions"]]
    needed = {canonicalize_name(Requirement(line).name) for line in lines}
    assert listed == needed - {"snakemake"}


def test_installed_versions_are_the_pinned_ones(constraints):
    different = {}
    for name, pinned in constraints.items():
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        # Builds of one version (2.13.0+cpu) differ only in their local part.
        if Version(Version(installed).public) != Version(pinned):
            different[name] = f"{installed} instead of {pinned}"
    assert not different, "run `make setup`"


def test_torch_is_the_same_everywhere(repository, project, constraints):
    pinned = f"torch=={constraints['torch']}"
    assert pinned in project["dependencies"]
    assert f" {pinned} " in (repository / "Makefile").read_text(encoding="utf-8")


def test_citation_names_the_version(repository):
    citation = yaml.safe_load((repository / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == sight_beyond_text.__version__
