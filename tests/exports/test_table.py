"""``glimpse table``: every format gives the same rows, and escapes that a parser of its own undoes."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pipeline.commands.table import BY_EXPRESSION, BY_SPLIT
from pipeline.listings.arrow import write_listing
from pipeline.listings.listing import Field, Listing, encodable
from pipeline.listings.text import as_csv, as_json, latex, markdown
from store.errors import ParameterError
from store.table import read_table
from tests.helpers.oracles import overlap_of
from tests.helpers.results import LOST, MISSING, NONE_EVALUATED, RULES, glimpse, metrics_of, results_run
from tests.helpers.stores import Synthetic

HOSTILE = st.text(st.characters() | st.sampled_from("\\|`*_[]<>&~$%#{}^\"'-!:@.()+=\n\t"), max_size=30)
COMMANDS = {
    r"\textbackslash{}": "\\",
    r"\textasciitilde{}": "~",
    r"\textasciicircum{}": "^",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"\textbar{}": "|",
    r"\textasciigrave{}": "`",
    r"\textquotesingle{}": "'",
    **{f"\\{sign}": sign for sign in "&%$#_{}"},
    "{''}": '"',
    "{[}": "[",
    "{]}": "]",
    "-{}": "-",
}
"""What LaTeX sets for a command, by its manual."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return results_run(tmp_path_factory.mktemp("run"), empty="skip", min_score=0.4, top_n=3)


def rows(made: Synthetic, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(glimpse(made, "table", "--format", "json", *words).stdout)
    return found


def cells_of_markdown(text: str) -> list[list[str]]:
    """The texts of a table's cells as a Markdown parser shows them."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    assert tokens[0].type == "table_open"
    table: list[list[str]] = []
    for token in tokens:
        if token.type == "tr_open":
            table.append([])
        if token.type == "inline":
            assert {child.type for child in token.children or []} <= {"text", "text_special"}, "nothing is markup"
            table[-1].append("".join(child.content for child in token.children or []))
    return table


def set_by_latex(cell: str) -> str:
    pattern = "|".join(re.escape(command) for command in sorted(COMMANDS, key=len, reverse=True))
    rest = re.sub(pattern, "", cell)
    assert not set(rest) & set("\\&%$#_{}^~"), f"{cell!r} leaves a command"
    assert "--" not in cell, "two hyphens would be one dash"
    return re.sub(pattern, lambda found: COMMANDS[found[0]], cell)


def cells_of_latex(text: str) -> list[list[str]]:
    lines = [line.removesuffix(r" \\") for line in text.splitlines() if line.endswith(r" \\")]
    return [[set_by_latex(cell) for cell in re.split(r"(?<!\\) & ", line)] for line in lines]


def one_line(text: str) -> str:
    return " ".join(encodable(text).split())


@given(st.lists(st.tuples(HOSTILE, HOSTILE), min_size=1, max_size=4))
def test_markdown_shows_what_was_meant(texts: list[tuple[str, str]]) -> None:
    fields = (Field("a", "text", "A|b"), Field("b", "text", "*B*"))
    listing = Listing(fields, [{"a": a, "b": f"x{b}x"} for a, b in texts])
    found = cells_of_markdown(markdown(listing))
    shown = [[one_line(a).replace("\x00", "�"), one_line(f"x{b}x").replace("\x00", "�")] for a, b in texts]
    assert found == [["A|b", "*B*"], *shown]


@given(st.lists(st.tuples(HOSTILE, HOSTILE), min_size=1, max_size=4))
def test_latex_sets_what_was_meant(texts: list[tuple[str, str]]) -> None:
    listing = Listing(
        (Field("a", "text", "A_b"), Field("b", "text", "50%")), [{"a": f"y{a}y", "b": f"x{b}x"} for a, b in texts]
    )
    shown = [[one_line(f"y{a}y"), one_line(f"x{b}x")] for a, b in texts]
    assert cells_of_latex(latex(listing)) == [["A_b", "50%"], *shown]


@given(st.lists(st.tuples(HOSTILE, st.none() | st.floats(0, 1), st.booleans(), st.integers(-(2**60), 2**60))))
def test_csv_and_json_lose_nothing(values: list[tuple[Any, ...]]) -> None:
    fields = (Field("t", "text"), Field("p", "percent"), Field("f", "flag"), Field("c", "count"))
    made = [dict(zip("tpfc", row, strict=True)) for row in values]
    listing = Listing(fields, made)
    assert json.loads(as_json(listing)) == made
    found = list(csv.DictReader(io.StringIO(as_csv(listing), newline="")))
    assert [row["t"] for row in found] == [encodable(row["t"]) for row in made]
    assert [float(row["p"]) if row["p"] else None for row in found] == [row["p"] for row in made]
    assert [row["f"] for row in found] == ["true" if row["f"] else "false" for row in made]
    assert [int(row["c"]) for row in found] == [row["c"] for row in made]


def test_parquet_keeps_types_without_a_value(tmp_path: Path) -> None:
    fields = (Field("t", "text"), Field("p", "percent"), Field("c", "count"))
    write_listing(Listing(fields, [{"t": "\ud800", "p": None, "c": 3}]), tmp_path / "x.parquet")
    frame = pandas.read_parquet(tmp_path / "x.parquet")
    assert frame.t.tolist() == ["?"]
    assert (frame.p.dtype, frame.c.tolist()) == ("float64", [3])
    assert frame.p.isna().all()


def test_the_rows_are_those_of_the_metrics_file(made: Synthetic) -> None:
    found = rows(made)
    groups = [("toy", "val"), ("toy", "testA"), ("other", "val")]
    by_key = {(row["dataset"], row["split"], row["encoder"], row["rule"]): row for row in found}
    assert len(by_key) == len(found) == len(groups) * 2 * (len(RULES) + 2)
    states = read_table(made.paths["pairs"], "pairs")["expression_state"]
    for (dataset, split, encoder, rule), row in by_key.items():
        name = rule if encoder == "vit" else f"{encoder}:{rule}"
        expected = metrics_of(made, name)[dataset, split]
        for value in ("oiou", "miou", "p50", "p70", "p90", "n"):
            assert row[value] == expected[value]
        assert [row["miou_low"], row["miou_high"]] == expected.get("miou_ci", [None, None])
        own = [e for e in range(len(made.ref)) if groups[made.ref_group[made.ref[e]]] == (dataset, split)]
        assert row["expressions"] == len(own)
        assert row["unreadable_image"] == sum(states[e] == "unreadable image" for e in own)
        assert row["not_evaluated"] == sum(states[e] not in ("", "no proposals") for e in own)
        if rule != "random":
            chosen = read_table(made.paths["scores"], "scores")[f"chosen.{name}"]
            counted = [e for e in own if states[e] in ("", "no proposals")]
            assert row["no_choice"] == sum(chosen[e] < 0 for e in counted)
            assert row["n"] == len(counted) - row["no_choice"], "empty: skip"
    bare = [row for row in found if (row["dataset"], row["split"]) == NONE_EVALUATED]
    assert all(row["n"] == 0 and row["miou"] is None for row in bare)


@pytest.mark.parametrize("per", ["split", "expression"])
def test_every_format_has_the_same_rows(made: Synthetic, per: str, tmp_path: Path) -> None:
    words, fields = ("table", "--per", per), BY_SPLIT if per == "split" else BY_EXPRESSION
    expected = rows(made, "--per", per)
    assert expected
    frames = []
    for form in ("csv", "parquet"):
        said = glimpse(made, *words, "--format", form, "--out", tmp_path / f"x.{form}").stdout
        assert said.endswith(f"x.{form}: {len(expected)} rows\n")
        read = pandas.read_csv if form == "csv" else pandas.read_parquet
        options = (
            {"keep_default_na": False, "na_values": dict.fromkeys(("miou", "score", "oiou", "iou"), "")}
            if form == "csv"
            else {}
        )
        frames.append(read(tmp_path / f"x.{form}", **options))  # type: ignore[operator]
    for frame in frames:
        assert list(frame) == [field.name for field in fields]
        for name in ("dataset", "split", "rule", "iou" if per == "expression" else "n"):
            assert [None if v != v else v for v in frame[name]] == [row[name] for row in expected]
        value = "score" if per == "expression" else "miou"
        assert [None if v != v else v for v in frame[value]] == [row[value] for row in expected]
    tables = [
        cells_of_markdown(glimpse(made, *words, "--format", "md").stdout),
        cells_of_latex(glimpse(made, *words, "--format", "latex").stdout),
    ]
    shown = [field for field in fields if field.heading]
    for head, *lines in tables:
        assert head == [field.heading for field in shown]
        assert len(lines) == len(expected)
        for line, row in zip(lines, expected, strict=True):
            for text, field in zip(line, shown, strict=True):
                value = row[field.name]
                if value is None:
                    assert text == "–"
                elif field.kind == "percent":
                    assert float(text) == pytest.approx(100 * value, abs=0.00501)
                    assert re.fullmatch(r"\d+\.\d\d", text)
                else:
                    assert text == (f"{value:.2f}" if field.kind == "number" else str(value))


def test_each_expression_with_what_was_chosen(made: Synthetic) -> None:
    found = rows(made, "--per", "expression", "--rule", "global")
    scores, table = read_table(made.paths["scores"], "scores"), read_table(made.paths["pairs"], "pairs")
    assert [row["expression_id"] for row in found] == [1000 + e for e in range(len(made.ref))]
    for e, row in enumerate(found):
        assert (row["proposal"], row["rule"]) == (scores["chosen.global"][e], "global")
        assert (row["state"] == "unreadable image") == (made.image_of(e) == MISSING)
        proposed = len(made.rows_of(e))
        assert -1 <= row["proposal"] < proposed
        if row["proposal"] >= 0 and made.truth[made.ref[e]] is not None:
            intersection, union = overlap_of(made, e, row["proposal"])
            assert (row["intersection"], row["union"]) == (intersection, union)
            assert row["iou"] == intersection / union
            assert row["counted"] == (table["expression_state"][e] == "")


def test_the_margin_is_to_the_runner_up_that_takes_part(made: Synthetic) -> None:
    """By the first rule, of which the scores table holds all scores."""
    scores, offsets = (
        read_table(made.paths["scores"], "scores"),
        read_table(made.paths["pairs"], "pairs")["expression_offsets"],
    )
    checked = better = 0
    for e, row in enumerate(rows(made, "--per", "expression")):
        values = scores["score"][slice(*offsets[e : e + 2])].tolist()
        places = [p for p, r in enumerate(made.rows_of(e)) if made.scores[r] >= 0.4 and r not in LOST and p < 3]
        kept = sorted((values[p] for p in places), reverse=True)
        assert row["score"] == (kept[0] if kept else None)
        assert row["margin"] == (pytest.approx(kept[0] - kept[1], abs=1e-6) if len(kept) > 1 else None)
        checked += len(kept) > 1
        better += len(kept) > 1 and sum(value > kept[1] for value in values) > 1
    assert checked > better > 2, "filters take away better ones"


def test_one_rule_one_data_set(made: Synthetic) -> None:
    assert {(row["encoder"], row["rule"]) for row in rows(made, "--rule", "second:global")} == {("second", "global")}
    assert {(row["encoder"], row["rule"]) for row in rows(made, "--rule", "vit:global")} == {("vit", "global")}
    assert {row["encoder"] for row in rows(made, "--rule", "random")} == {"vit"}
    assert {row["split"] for row in rows(made, "--dataset", "toy", "--split", "testA")} == {"testA"}
    assert {row["dataset"] for row in rows(made, "--per", "expression", "--dataset", "other")} == {"other"}


def test_standard_output_is_the_table_alone(made: Synthetic, tmp_path: Path) -> None:
    done = glimpse(made, "table")
    assert done.stdout.startswith("| Data set | Split |")
    assert done.stderr.startswith("profile ")
    assert "stale: " in done.stderr
    assert glimpse(made, "table", "--out", tmp_path / "t.md").stdout.startswith("profile ")
    assert (tmp_path / "t.md").read_text() == done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--format", "mdx"], "--format: no format 'mdx'; did you mean 'md'"),
        (["--format", "parquet"], "--format parquet: expected a file .* name one with --out"),
        (["--per", "splits"], "--per: no 'splits'; did you mean 'split'"),
        (["--rule", "globl"], "--rule: .*did you mean 'global'"),
        (["--per", "expression", "--rule", "random"], "--rule: .*chooses nothing"),
        (["--split", "vall"], "--split: no split 'vall'; did you mean 'val'"),
    ],
)
def test_what_is_refused(made: Synthetic, words: list[str], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        glimpse(made, "table", *words)
