"""The comparison of image evaluations runs, and tells what it measured."""

import json
import subprocess
import sys


def test_both_contenders_give_the_same_answers(repository, tmp_path):
    out = tmp_path / "told.json"
    command = [sys.executable, str(repository / "benchmarks" / "image_evaluation.py")]
    options = ["--shape", "tiny", "--images", "2", "--repeats", "1", "--threads", "1"]
    done = subprocess.run(
        [*command, *options, "--benchmarks", "pope", "captions", "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    rows = {row["benchmark"]: row for row in report["benchmarks"]}
    assert {name: row["questions"] for name, row in rows.items()} == {"pope": 12, "captions": 8}
    assert all(row["same"] == 1 for row in rows.values())
    speeds = rows["pope"]["questions_a_second"]
    assert speeds["sight"] > speeds["alone"] > 0
    assert "| pope | 12 | 6 |" in out.with_suffix(".md").read_text()
