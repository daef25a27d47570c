"""Two processes at one stage: the second says who works there or waits, whatever the stage; clean touches nothing that runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.project import load_project
from pipeline.runner import run_words
from pipeline.status import remove_unused_parts
from store.document import write_document
from store.errors import BusyError
from tests.helpers.busy import holding
from tests.helpers.oracles import make_pairs
from tests.helpers.profile import demo_values
from tests.helpers.stores import Synthetic, synthetic

WITHOUT_PARTS = {
    "overlap": ("index", "proposals", "overlap"),
    "score": ("pair_tables", "scores", "metrics", "summary", "rules_plot", "iou_plot"),
    "sweep": ("pairs", "grid", "surface_plot"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Synthetic:
    made = synthetic(tmp_path_factory.mktemp("made"))
    make_pairs(made)
    return made


def words(made: Synthetic, stage: str, work: Path) -> list[str]:
    files = {name: made.paths.get(name, work.parent / name) for name in WITHOUT_PARTS[stage]}
    if "pair_tables" in files:
        files["pair_tables"] = made.paths["pairs"].parent
    return ["--work", str(work), *(word for name, path in files.items() for word in (f"--{name}", str(path)))]


@pytest.mark.parametrize("stage", WITHOUT_PARTS)
def test_stages_without_parts_have_one_writer_too(made: Synthetic, stage: str, tmp_path: Path) -> None:
    work = tmp_path / "work"
    before = made.paths["overlap"].read_bytes()
    with (
        holding(work / stage) as other,
        pytest.raises(BusyError, match=rf"{stage}: another process .*process {other.pid}"),
    ):
        run_words(stage, words(made, stage, work))
    assert made.paths["overlap"].read_bytes() == before
    with holding(work / stage, 0.5):
        assert run_words(stage, [*words(made, stage, work), "--wait", "60"])["wrote"]


def test_the_environment_says_how_long(made: Synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMPSE_WAIT", "60")
    with holding(tmp_path / "work/overlap", 0.5):
        assert run_words("overlap", words(made, "overlap", tmp_path / "work"))["wrote"]
    monkeypatch.setenv("GLIMPSE_WAIT", "0.1")
    with holding(tmp_path / "work/overlap"), pytest.raises(BusyError, match=r"after 0\.1 s"):
        run_words("overlap", words(made, "overlap", tmp_path / "work"))


def test_clean_touches_nothing_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the scratch of stage variants, which has no parts of its own."""
    values = demo_values(tmp_path)
    Path(values["profile"]).write_text(yaml.safe_dump(values))
    project = load_project(Path(values["profile"]))
    work = Path(values["work"])
    write_document(
        work / "records/variants.json", {"parts": ["elsewhere/0123"], "values": {}, "skipped": []}, "variants"
    )
    scratch = work / "variants/fill/scratch"
    scratch.mkdir(parents=True)
    with holding(work / "variants") as other:
        with pytest.raises(BusyError, match=f"process {other.pid}"):
            remove_unused_parts(project)
        assert scratch.is_dir()
    with holding(work / "variants", 0.5):
        monkeypatch.setenv("GLIMPSE_WAIT", "60")  # what the message says
        assert [unused.folder for unused in remove_unused_parts(project)] == [scratch]
    assert not scratch.exists()


def test_score_removes_what_a_killed_writer_left_of_a_file_that_it_keeps(made: Synthetic, tmp_path: Path) -> None:
    """Metrics with the same numbers are not written again, and only a write would have removed it."""
    given = words(made, "score", tmp_path / "work")
    metrics = made.paths.get("metrics", tmp_path / "metrics")
    run_words("score", given)
    before, left = (metrics.stat().st_ino, metrics.read_bytes()), metrics.parent / f".{metrics.name}.0c7c5b5c.tmp"
    left.mkdir()
    (left / "lock").touch()
    (left / "new").write_text("half of")
    run_words("score", given)
    assert (metrics.stat().st_ino, metrics.read_bytes()) == before
    assert not left.exists()
