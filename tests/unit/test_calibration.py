"""Known truth: what is planted in simulated studies is told as it is."""

import importlib.util
import sys

import pytest


@pytest.fixture(scope="module")
def calibration(repository):
    path = repository / "benchmarks" / "calibration.py"
    spec = importlib.util.spec_from_file_location("calibration", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["calibration"] = module
    spec.loader.exec_module(module)
    return module


def test_few_simulated_studies_are_told_about_as_they_are(calibration, tmp_path):
    report = {
        "studies": 100,
        "coverage": [calibration.coverage(calibration.CASES[place], 100, 1) for place in (3, 9)],
        "family": [calibration.family_wise(20, 0.5)],
        "power": [calibration.powered(calibration.POWERED[1], 100, 1)],
    }
    assert calibration.misses(report, slack=0.07) == []
    calibration.draw(report, tmp_path / "drawn.svg")
    assert "simulated studies" in (tmp_path / "drawn.svg").read_text()
    told = {"date": "", "python": "", "seconds": 1, "command": ""}
    assert "| right or wrong, 20 clusters of 5 |" in calibration.markdown(report | told)


def test_what_is_out_of_bounds_is_named(calibration):
    report = {
        "coverage": [{"case": "short", "seeds": 1, "covered": 0.9}],
        "family": [{"case": "many", "error": 0.07}],
        "power": [{"case": "weak", "found": 0.7, "foretold": 0.8}],
    }
    assert calibration.misses(report) == ["short", "many", "weak"]


@pytest.mark.slow
def test_hundreds_of_simulated_studies_are_told_as_they_are(calibration):
    """The benchmark simulates a thousand, and without slack."""
    assert calibration.misses(calibration.simulated(400), slack=0.02) == []
