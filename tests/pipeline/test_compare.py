"""``glimpse compare``: two rules, two encoders and two runs against plain loops, pictures of flips, and what it refuses."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

from pipeline.cli import app
from stages import score as score_stage
from store.errors import ParameterError, StoreError
from store.table import read_table, write_table
from tests.helpers.oracles import context, evaluated, fields, make_pairs, overlap_of, plain_metrics
from tests.helpers.profile import demo_values
from tests.helpers.report_page import CHOSEN, TEXTS, build, iou
from tests.helpers.stores import GROUPS, STRINGS, Synthetic, synthetic

RULES = ["global_local", "global", "cropping"]


def glimpse(*words: Any) -> Result:
    done = CliRunner().invoke(app, ["compare", *map(str, words)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done


def compared(*words: Any) -> dict[str, Any]:
    """The JSON of a comparison; standard output holds nothing else."""
    found: dict[str, Any] = json.loads(glimpse(*words, "--json").stdout)
    return found


def profile(folder: Path) -> Path:
    """A params file whose data are in ``folder``."""
    values = demo_values(folder) | {"root": ".", "data": str(folder)}
    values["bootstrap"] = {"resamples": 60, "seed": 1}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    return folder / "params.yaml"


def run_of(folder: Path, seed: int, counts: tuple[int, ...]) -> Synthetic:
    """A scored run on a synthetic store, with a further encoder's choices: the last proposal of every expression."""
    made = synthetic(folder, seed, counts)
    make_pairs(made)
    params = score_stage.Params(enabled=RULES, alpha=0.5, resamples=0)
    paths = fields(made, score_stage, metrics=folder / "metrics.json")
    score_stage.run(params, paths, context(folder))
    table = read_table(made.paths["scores"], "scores")
    columns = table.columns | {"chosen.rn50:global": np.array([len(made.rows_of(e)) - 1 for e in range(len(made.ref))])}
    attrs = {name: table.attrs[name] for name in ("config", "made_from", "rules", "metrics")}
    write_table(made.paths["scores"], "scores", columns, **attrs)
    profile(folder)
    return made


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    return run_of(tmp_path_factory.mktemp("one"), 0, (5, 0, 12, 1, 9))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    """Other images, proposals and splits: what matches are the ids."""
    return run_of(tmp_path_factory.mktemp("two"), 7, (8, 4, 3, 6, 2))


def folder_of(made: Synthetic) -> Path:
    return made.paths["index"].parent


def chosen(made: Synthetic, name: str) -> list[int]:
    rows: list[int] = read_table(made.paths["scores"], "scores")[f"chosen.{name}"].tolist()
    return rows


def iou_of(made: Synthetic, name: str, expression: int) -> float:
    intersection, union = overlap_of(made, expression, chosen(made, name)[expression])
    return intersection / union if union else 0.0


@pytest.mark.parametrize(
    ("a", "b", "columns"),
    [
        ("global_local", "cropping", ("global_local", "cropping")),
        ("vit:global", "rn50:global", ("global", "rn50:global")),
        ("upper_bound", "cropping", ("upper_bound", "cropping")),
    ],
)
def test_two_rules_and_two_encoders(one: Synthetic, a: str, b: str, columns: tuple[str, str]) -> None:
    found = compared(a, b, "--params", folder_of(one) / "params.yaml")
    assert (found["a"], found["b"], found["resamples"], found["seed"]) == (*columns, 60, 1)
    assert [(line["dataset"], line["split"]) for line in found["splits"]] == GROUPS
    for group, line in enumerate(found["splits"]):
        rows = evaluated(one, group)
        for side, name in zip("ab", columns, strict=True):
            expected = plain_metrics(one, {e: chosen(one, name)[e] for e in rows}, "count")
            for metric in ("oiou", "miou"):
                assert line[metric][side] == pytest.approx(expected[metric], rel=1e-9)
            assert line["p50"][side] == pytest.approx(sum(iou_of(one, name, e) > 0.5 for e in rows) / len(rows))
        assert line["n"] == len(rows)
        hits = {e: [iou_of(one, name, e) > 0.5 for name in columns] for e in rows}
        assert line["flips"] == {
            "gained": [1000 + e for e, (first, second) in hits.items() if first and not second],
            "lost": [1000 + e for e, (first, second) in hits.items() if second and not first],
        }
        assert (line["only_a"], line["only_b"], line["other_ground_truth"]) == (0, 0, 0)
        low, high = line["miou"]["ci"]
        assert low <= line["miou"]["difference"] <= high


def test_breakdowns_are_loops_over_expressions(one: Synthetic) -> None:
    found = compared("global", "cropping", "--params", folder_of(one) / "params.yaml", "--resamples", 0)
    for group, line in enumerate(found["splits"]):
        rows = evaluated(one, group)
        assert set(line["breakdowns"]) == {"category", "size", "length", "position words", "relation words"}
        (category,) = line["breakdowns"]["category"]
        assert (category["value"], category["n"]) == ("thing", len(rows))
        assert [each["value"] for each in line["breakdowns"]["position words"]] == ["none"]
        by_length = {each["value"]: each for each in line["breakdowns"]["length"]}
        for value, least, most in (("1-2 words", 1, 2), ("3-5 words", 3, 5)):
            own = [e for e in rows if least <= len(STRINGS[one.strings[e][0]].split()) <= most]
            if not own:
                assert value not in by_length
                continue
            for side, name in (("a", "global"), ("b", "cropping")):
                mean = math.fsum(iou_of(one, name, e) for e in own) / len(own)
                assert by_length[value][side] == pytest.approx(mean)
            assert by_length[value]["n"] == len(own)
        assert sum(each["n"] for each in line["breakdowns"]["size"]) == len(rows)
        shares = {}
        for e in rows:
            truth = one.truth[one.ref[e]]
            assert truth is not None
            shares[e] = truth.mean()
        small = [share for share in shares.values() if share <= np.quantile(list(shares.values()), 1 / 3)]
        assert line["breakdowns"]["size"][0]["n"] == len(small)


@pytest.mark.parametrize("file", ["params.yaml", "scores.h5", "params.yaml:vit:global_local"])
def test_two_runs_are_matched_by_id(one: Synthetic, two: Synthetic, file: str) -> None:
    found = compared("cropping", folder_of(two) / file, "--params", folder_of(one) / "params.yaml")
    keys = {
        (made is two, GROUPS[made.ref_group[made.ref[e]]], 1000 + e)
        for made in (one, two)
        for group in range(len(GROUPS))
        for e in evaluated(made, group)
    }
    total = 0
    for line in found["splits"]:
        place = (line["dataset"], line["split"])
        ids = [
            {number for other, group, number in keys if group == place and other == second} for second in (False, True)
        ]
        shared = sorted(ids[0] & ids[1])
        assert line["n"] == len(shared) > 0
        total += len(shared)
        assert (line["only_a"], line["only_b"]) == (len(ids[0] - ids[1]), len(ids[1] - ids[0]))
        for side, made, name in (("a", one, "cropping"), ("b", two, "global_local")):
            mean = math.fsum(iou_of(made, name, number - 1000) for number in shared) / len(shared)
            assert line["miou"][side] == pytest.approx(mean)
        areas = [
            [0 if (t := made.truth[made.ref[n - 1000]]) is None else t.sum() for made in (one, two)] for n in shared
        ]
        assert line["other_ground_truth"] == sum(a != b for a, b in areas)
    assert total > 3
    assert "of A alone" in glimpse("cropping", folder_of(two) / file, "--params", folder_of(one) / "params.yaml").output


def test_a_run_with_itself_differs_by_nothing(one: Synthetic) -> None:
    file = folder_of(one) / "params.yaml"
    found = compared("cropping", f"{file}:cropping", "--params", file)
    for line in found["splits"]:
        assert line["flips"] == {"gained": [], "lost": []}
        for metric in ("oiou", "miou", "p50"):
            assert line[metric]["difference"] == 0
            assert line[metric]["p"] == 1


def test_what_is_printed(one: Synthetic, two: Synthetic) -> None:
    file, other = folder_of(one) / "params.yaml", folder_of(two) / "params.yaml"
    lines = glimpse(
        "global_local", "cropping", "--params", file, "--dataset", "toy", "--split", "testA"
    ).output.splitlines()
    assert lines[0].startswith(f"profile {file}; ")
    assert lines[1].startswith("stale: ")
    assert lines[2:4] == ["A: global_local", "B: cropping"]
    assert not [line for line in lines if " val " in line or line.startswith("other")]
    assert any(re.match(r"toy testA: only A above IoU 0\.5: \d+, only B: \d+$", line) for line in lines)
    assert all(len(line) <= 100 for line in lines[2:])
    said = glimpse("global_local", other, "--params", file).output
    assert f"B: profile {other}; " in said
    assert "B: stale: " in said
    done = glimpse("global_local", other, "--params", file, "--json")
    assert done.stderr.startswith(f"profile {file}; ")
    assert f"B: profile {other}; " in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["global_locl", "cropping"],
            r"A: .*scores\.h5 holds no choices of 'global_locl'; did you mean 'global_local'",
        ),
        (["cropping", "random"], "B: .*no choices of 'random'.*the random rule is an expectation and chooses nothing"),
        (["cropping", "b32:global"], "no choices of 'b32:global'.*rn50:global"),
        (
            ["cropping", "nowhere/params.yaml"],
            "B: expected a params file or a scores.h5, there is no nowhere/params.yaml",
        ),
        (["cropping", "global", "--dataset", "toi"], "--dataset: no dataset 'toi'; did you mean 'toy'"),
        (["cropping", "global", "--dataset", "other", "--split", "testA"], "--split: no split 'testA'; known: val"),
    ],
)
def test_what_is_refused(one: Synthetic, words: list[str], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        glimpse(*words, "--params", folder_of(one) / "params.yaml")


def test_runs_that_do_not_fit(one: Synthetic, two: Synthetic, tmp_path: Path) -> None:
    shutil.copytree(folder_of(two), tmp_path / "other")
    file = tmp_path / "other/index.h5"
    table = read_table(file, "index")
    columns = table.columns | {"expression_id": np.zeros_like(table["expression_id"])}
    index = write_table(file, "index", columns, {}, {}, groups=GROUPS)
    params = folder_of(one) / "params.yaml"
    with pytest.raises(StoreError, match=r"results: .*index"):
        glimpse("cropping", tmp_path / "other/scores.h5", "--params", params)
    digests = {"index": index.digest}
    for name in ("parse", "pairs", "scores"):
        path = tmp_path / "other" / ("pairs/vit.h5" if name == "pairs" else f"{name}.h5")
        stored = read_table(path, name)
        attrs = {key: stored.attrs[key] for key in ("groups", "rules") if key in stored.attrs}
        made = write_table(
            path, name, stored.columns, stored.attrs["config"], stored.attrs["made_from"] | digests, **attrs
        )
        digests[name] = made.digest
    with pytest.raises(StoreError, match=r"expected distinct expression ids within .* found 0 twice"):
        glimpse("cropping", tmp_path / "other/scores.h5", "--params", params)
    shutil.rmtree(tmp_path / "other/pairs")
    with pytest.raises(StoreError, match=r"expected the pair table that it was made from .* found none"):
        glimpse("cropping", tmp_path / "other/scores.h5", "--params", params)


def test_pictures_of_flips(tmp_path: Path) -> None:
    paths = build(tmp_path / "run")
    (tmp_path / "run/pairs").mkdir()
    paths.pairs.rename(tmp_path / "run/pairs/vit.h5")
    file = profile(tmp_path / "run")
    values = yaml.safe_load(file.read_text()) | {"images": str(tmp_path / "run/images")}
    file.write_text(yaml.safe_dump(values))
    found = glimpse("global_local", "global", "--params", file, "--pictures", tmp_path / "pictures")
    ours, other = (CHOSEN[f"chosen.{rule}"] for rule in ("global_local", "global"))
    gained = [e for e in range(len(TEXTS)) if iou(e, ours[e]) > 0.5 >= iou(e, other[e])]
    lost = [e for e in range(len(TEXTS)) if iou(e, other[e]) > 0.5 >= iou(e, ours[e])]
    assert gained
    assert lost
    group = ["refshapes_val" if e < 3 else "other_test" for e in range(len(TEXTS))]
    names = {f"{group[e]}_{kind}_{100 + e}.png" for kind, own in (("only_a", gained), ("only_b", lost)) for e in own}
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == names
    assert f"{len(names)} pictures in {tmp_path}/pictures" in found.output
    for name in names:
        with Image.open(tmp_path / "pictures" / name) as picture:
            assert picture.width == 640
            assert picture.height > 480
