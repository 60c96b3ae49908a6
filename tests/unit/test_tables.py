"""The tidy tables' reading and writing, and the main table."""

import dataclasses
import re
from pathlib import Path

import pandas as pd
import pytest

from sight_beyond_text.analysis import names, tidy
from sight_beyond_text.analysis import tables as main
from sight_beyond_text.analysis.compare import compare
from sight_beyond_text.errors import UserError

from .synthetic_tables import make_tables, write_tables


@pytest.fixture(scope="module")
def study() -> tidy.Tables:
    return make_tables(scale=0.3, draws=100, reference=True)


@pytest.fixture
def folder(study, tmp_path: Path) -> Path:
    write_tables(study, tmp_path)
    return tmp_path


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        tidy.read_tables(folder)
    message = str(error.value)
    assert "\n" not in message and "sight compare" in message
    return message


def test_tables_come_back_as_they_were_written(study, folder):
    read = tidy.read_tables(folder)
    for table, schema in tidy.SCHEMAS.items():
        before, after = getattr(study, table), getattr(read, table)
        assert list(after.columns) == list(schema)
        assert len(after) == len(before)
        key = tidy.KEYS[table]
        expected = before.sort_values(key, ignore_index=True)
        actual = after.sort_values(key, ignore_index=True)
        pd.testing.assert_frame_equal(actual, expected, check_dtype=False, rtol=1e-5, atol=1e-9)


def test_writing_does_not_depend_on_the_order_of_rows(study, tmp_path):
    for table, name in tidy.FILES.items():
        frame = getattr(study, table)
        write = tidy.write_parquet if name.endswith(".parquet") else tidy.write_csv
        write(frame, tmp_path / "a" / name)
        write(frame.sample(frac=1, random_state=1), tmp_path / "b" / name)
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert [path.name for path in (tmp_path / "a").glob(f".*{Path(name).suffix}")] == []


def test_csv_keeps_whole_numbers_in_full_and_fractions_at_six_digits(study, tmp_path):
    runs = study.runs.assign(parameters=study.runs["parameters"].astype(float))
    tidy.write_csv(runs, tmp_path / "runs.csv")
    assert ",6738415616," in (tmp_path / "runs.csv").read_text()
    tidy.write_csv(pd.DataFrame({"value": [1 / 3, -0.0]}), tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_bytes() == b"value\n0\n0.333333\n"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "runs.csv"
    target.write_text("old\n")
    with pytest.raises(RuntimeError), tidy.atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [target]


def test_figures_read_a_study_without_its_items(folder):
    (folder / "items.parquet").unlink()
    assert tidy.read_tables(folder, items=False).items.empty
    assert "items.parquet: no such file" in refused(folder)


def test_a_missing_folder_is_named(tmp_path):
    assert "nowhere: no such folder" in refused(tmp_path / "nowhere")


@pytest.mark.parametrize("name", tidy.FILES.values())
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    assert f"{name}: no such file" in refused(folder)


@pytest.mark.parametrize("name", tidy.FILES.values())
def test_a_truncated_file_is_named(folder, name):
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3].rstrip(b"\n"))
    assert str(path) in refused(folder)


@pytest.mark.parametrize("name", tidy.FILES.values())
def test_an_empty_or_garbled_file_is_named(folder, name):
    for content in (b"", b"\xff\xfe\x00garbage\x80"):
        (folder / name).write_bytes(content)
        assert str(folder / name) in refused(folder)


def test_a_field_cut_at_the_very_end_is_noticed(folder):
    path = folder / "scores.csv"
    path.write_text(path.read_text().rstrip("\n"))
    assert "ends in the middle of line" in refused(folder)


def test_a_missing_column_is_named(study, folder):
    tidy.write_csv(study.scores.drop(columns=["stderr", "protocol"]), folder / "scores.csv")
    assert "scores.csv: lacks the column(s) stderr, protocol" in refused(folder)
    tidy.write_parquet(study.items.drop(columns="cluster"), folder / "items.parquet")
    write_tables(study, folder)
    tidy.write_parquet(study.items.drop(columns="cluster"), folder / "items.parquet")
    assert "items.parquet: lacks the column(s) cluster" in refused(folder)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("value", "much", "a number belongs"),
        ("n", "1.5", "a whole number belongs"),
        ("higher_is_better", "perhaps", "true or false belongs"),
    ],
)
def test_a_value_of_the_wrong_type_is_shown(study, folder, column, value, said):
    scores = study.scores.astype({column: object})
    scores.loc[0, column] = value
    scores.to_csv(folder / "scores.csv", index=False)
    message = refused(folder)
    assert f"column {column}" in message and repr(value) in message and said in message


def test_contradictions_between_tables_are_refused(study, folder):
    tidy.write_csv(study.runs.iloc[1:], folder / "runs.csv")
    assert "1 run(s) are not in runs.csv" in refused(folder)
    tidy.write_csv(pd.concat([study.runs, study.runs.iloc[:1]]), folder / "runs.csv")
    assert "1 row(s) occur twice" in refused(folder)


def test_two_protocols_of_one_benchmark_are_refused(study, folder):
    scores = study.scores.copy()
    scores.loc[scores["benchmark"].eq("boolq").idxmax(), "protocol"] = "published"
    tidy.write_csv(scores, folder / "scores.csv")
    with pytest.raises(UserError, match=r"text/boolq/acc .*\(current, published\)"):
        tidy.read_tables(folder)


@pytest.mark.parametrize("protocol", ["current", "published"])
def test_every_table_made_of_scores_names_their_protocol(tmp_path, protocol):
    made = make_tables(
        bases=("b",), tunings=("lora",), corrupted=("fog",), reference=True, scale=0.1, draws=20
    )
    subjects = []
    for run in made.runs.to_dict("records"):
        own = tmp_path / run["run"]
        for table in ("scores", "items"):
            frame = getattr(made, table)
            frame = frame[frame["run"] == run["run"]]
            if table == "scores":
                frame = frame.assign(protocol=protocol)
            tidy.write_parquet(frame, own / f"{table}.parquet")
        known = ("label", "kind", "source", "tuning", "instruction_kinds")
        subject = {"id": run["run"], "base_name": run["base"], "seed": None, "record": None}
        subject |= {name: run[name] for name in known}
        subjects.append(subject | {"alignment_record": None, "evaluations": [str(own)]})
    tables = tmp_path / "tables"
    compare({"study": "made", "subjects": subjects}, tables, tmp_path / "record.json")
    main.write_main_table(tables, tables / "main_table")
    read = {
        name: pd.read_csv(tables / f"{name}.csv")
        for name in ("scores", "effects", "intervals", "robustness", "main_table")
    }
    for name, table in read.items():
        assert len(table) and set(table["protocol"]) == {protocol}, name
    assert {names.MACRO, "mmlu", "pope"} <= set(read["intervals"]["benchmark"])
    assert list(read["main_table"].columns[:4]) == ["base", "tuning", "source", "protocol"]
    for suffix in ("md", "tex"):
        assert f"text: {protocol}." in (tables / f"main_table.{suffix}").read_text()


def test_each_benchmark_has_its_own_protocol(study):
    scores = study.scores.copy()
    scores.loc[scores["suite"] == "text", "protocol"] = "published"
    bare = study.effects.drop(columns="protocol")
    made = tidy.with_protocol(bare, scores)
    assert list(made.columns) == list(tidy.EFFECTS)
    assert (made["protocol"] == "published").equals(made["suite"] == "text")
    pd.testing.assert_frame_equal(made.drop(columns="protocol"), bare)


def test_a_table_needs_one_protocol_for_each_of_its_rows(study):
    bare = study.intervals.drop(columns="protocol")
    scores = study.scores.copy()
    scores.loc[scores["benchmark"] == names.ETHICS[0], "protocol"] = "published"
    with pytest.raises(UserError, match=r"text/ethics/acc .*\(current, published\)"):
        tidy.with_protocol(bare, scores)
    with pytest.raises(UserError, match="text/mmlu/acc has items, but no score"):
        tidy.with_protocol(bare, scores=study.scores[study.scores["benchmark"] != "mmlu"])


def test_scored_gives_intervals_only_where_they_belong_to_the_value(study):
    values = tidy.scored(study).set_index(["run", "benchmark", "metric"])
    run = "micro-base-visual-lora-0"
    accuracy, f1 = values.loc[run, "pope", "accuracy"], values.loc[run, "pope", "f1"]
    assert accuracy["low"] < accuracy["value"] < accuracy["high"]
    assert pd.isna(f1["low"])
    assert values.loc[run, "ethics", "acc"]["low"] > 0
    # A corpus metric whose items average to something else must not borrow their interval.
    other = study.scores.copy()
    other.loc[(other["run"] == run) & (other["metric"] == "CIDEr"), "value"] = 2.0
    other.loc[(other["run"] == run) & (other["metric"] == "f1"), "stderr"] = 0.01
    values = tidy.scored(dataclasses.replace(study, scores=other))
    values = values.set_index(["run", "benchmark", "metric"])
    assert pd.isna(values.loc[run, "captions", "CIDEr"]["low"])
    f1 = values.loc[run, "pope", "f1"]
    assert f1["high"] - f1["low"] == pytest.approx(2 * 1.96 * 0.01)


def test_main_table_holds_every_run_and_the_scores(study):
    table = main.main_table(study)
    assert len(table) == 23
    assert table.index.names == ["base", "tuning", "source"]
    assert list(dict.fromkeys(table.columns.get_level_values(0))) == [
        "TruthfulQA mc1",
        "TruthfulQA mc2",
        "ETHICS",
        "MMLU",
        "GSM8K exact match",
        "BoolQ",
        "VQA",
        "POPE",
        "Captions CIDEr",
    ]
    scores = study.scores.set_index(["run", "benchmark", "metric"])["value"]
    shown = table.at[("micro-chat", "LoRA", "visual"), ("MMLU", "value")]
    assert shown == pytest.approx(100 * scores["micro-chat-visual-lora-0", "mmlu", "acc"])
    assert table.index[0] == ("micro-base", "untuned", "")
    assert table.index[-1] == ("Published 7B", "reference", "")


def test_best_and_asterisk_are_those_of_the_scores(study):
    table = main.main_table(study)
    own = table.xs("micro-base")["TruthfulQA mc2"]
    assert own.loc[own["best"], "value"].round(1).nunique() == 1
    assert own.loc[own["best"], "value"].max() == own["value"].max()
    assert not table.loc["Published 7B"].xs("best", axis=1, level=1).to_numpy().any()
    effects = study.effects
    against = effects[
        (effects["contrast"] == "tuned - base") & (effects["benchmark"] == "truthfulqa_mc2")
    ]
    differing = (against["p_holm"] < 0.05).sum()
    assert table["TruthfulQA mc2", "differs"].sum() == differing


def test_second_best_is_the_next_value_that_is_shown(study):
    table = main.main_table(study)
    for base in ("micro-base", "micro-chat"):
        own = table.xs(base)["MMLU"].assign(shown=lambda frame: frame["value"].round(1))
        ranks = sorted(set(own["shown"]), reverse=True)
        assert set(own.loc[own["best"], "shown"]) == {ranks[0]}
        assert set(own.loc[own["second"], "shown"]) == {ranks[1]}
    tied = study.scores.assign(value=0.5)
    own = main.main_table(dataclasses.replace(study, scores=tied))["GSM8K exact match"]
    assert own["best"].sum() == 22 and not own["second"].any()


def test_marks_rest_on_p_values_after_holm(study):
    for p, marked in ((0.2, 0), (0.01, 20)):
        effects = study.effects.assign(p_holm=p, p=1 - p, low=0.1, high=0.2)
        table = main.main_table(dataclasses.replace(study, effects=effects))
        assert table["MMLU", "differs"].sum() == marked
    assert "after Holm's correction" in main.note(study)


def test_mme_is_told_by_its_sums(study):
    metrics = {"accuracy": 0.7, "perception": 1234.5, "cognition": 321.0, "score_OCR": 100.0}
    own = study.scores[(study.scores["benchmark"] == "pope")]
    own = own.drop_duplicates("run").assign(benchmark="mme", stderr=float("nan"))
    rows = [own.assign(metric=metric, value=value) for metric, value in metrics.items()]
    more = dataclasses.replace(study, scores=pd.concat([study.scores, *rows], ignore_index=True))
    table = main.main_table(more)
    titles = [title for title in table.columns.get_level_values(0).unique() if "MME" in title]
    assert titles == ["MME perception", "MME cognition"]
    assert table["MME perception"]["value"].dropna().unique().tolist() == [1234.5]
    assert "MME: sums over subtasks of 200 each." in main.note(more)
    assert "MME" not in main.note(study)


def test_lower_can_be_better(study):
    scores = study.scores.copy()
    scores.loc[scores["benchmark"] == "mmlu", "higher_is_better"] = False
    own = main.main_table(dataclasses.replace(study, scores=scores)).xs("micro-base")["MMLU"]
    assert own.loc[own["best"], "value"].min() == own["value"].min()


def test_seeds_are_told_apart():
    tables = make_tables(
        bases=("b",), sources=("visual",), tunings=("lora",), seeds=(3, 4), scale=0.1, draws=20
    )
    table = main.main_table(tables)
    assert table.index.names == ["base", "tuning", "source", "seed"]
    assert list(table.index.get_level_values("seed")) == ["", "3", "4"]


def test_markdown_has_one_cell_per_column(study):
    text = main.to_markdown(main.main_table(study), main.note(study))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 25
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {13}
    assert "**" in text and "\\*" in text and "± " in text
    assert re.search(r"\| \*\d+\.\d ± \d+\.\d\*(\\\*)? \|", text)
    assert "Protocol: image: current; text: current." in text


def test_latex_escapes_names_and_balances_rows(study):
    runs = study.runs.copy()
    runs.loc[runs["kind"] == "base", "label"] = r"50%_$#&{x}~^\base"
    table = main.main_table(dataclasses.replace(study, runs=runs))
    text = main.to_latex(table, "100 % & more")
    assert r"50\%\_\$\#\&\{x\}\textasciitilde{}\textasciicircum{}\textbackslash{}base" in text
    assert r"\underline{" in text and r"\textbf{" in text
    assert r"\caption{100 \% \& more}" in text
    body = text.split(r"\midrule", 1)[1].split(r"\bottomrule")[0]
    lines = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len(lines) == 23
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {11}
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert "–" not in text and "±" not in text


def test_writing_the_main_table_twice_gives_the_same_bytes(folder, tmp_path):
    record = main.write_main_table(folder, tmp_path / "one" / "main")
    main.write_main_table(folder, tmp_path / "two" / "main")
    assert record["files"] == ["main.csv", "main.md", "main.tex"]
    assert (record["runs"], record["benchmarks"]) == (23, 9)
    assert set(record["tables"]) == set(tidy.FILES.values()) - {"items.parquet"}
    for name in record["files"]:
        one, two = tmp_path / "one" / name, tmp_path / "two" / name
        assert one.read_bytes() == two.read_bytes()
    csv = pd.read_csv(tmp_path / "one" / "main.csv")
    assert len(csv) == 23 and "MMLU half width" in csv.columns


def test_no_scores_make_no_table(study):
    nothing = dataclasses.replace(
        study, scores=tidy.empty("scores"), intervals=tidy.empty("intervals")
    )
    with pytest.raises(UserError, match="no scores"):
        main.main_table(nothing)
