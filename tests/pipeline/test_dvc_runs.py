"""What DVC reruns after a change, read from DVC's own output, on a copy of the project with a small benchmark."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.registry import STAGES
from store.document import content_of
from store.table import read_table
from tests.helpers.dvc_project import Project, flip

AFTER_SCORE = ["score", "ablations", "report"]
AFTER_PAIR = ["pair", "variants", "sweep", *AFTER_SCORE]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("project"))
    assert sorted(project.repro()) == sorted(["doctor", *STAGES])
    return project


def test_an_addition_makes_stale_what_asks_its_room(project: Project) -> None:
    for room, stages in {
        "datasets": {"index", "variants", "report"},
        "proposals": {"propose", "variants"},
        "views": {"embed_masks", "pair", "variants"},
        "clip": {"embed_masks", "embed_text", "heat", "variants"},
        "heat_maps": {"heat", "variants"},
        "rules": {"score", "ablations", "report"},
    }.items():
        file = project.folder / "extensions" / room / "new.py"
        file.write_text("")
        changed = json.loads(project.dvc("status", "--json", "demo/dvc.yaml"))
        file.unlink()
        assert {name.rpartition(":")[2].partition("@")[0] for name in changed} == stages
    assert json.loads(project.dvc("status", "--json", "demo/dvc.yaml")) == {}


def test_a_fresh_clone_says_what_gets_its_inputs(project: Project) -> None:
    """DVC alone says of the first input that is missing: [Errno 2] No such file or directory."""
    said = project.typed("dvc repro", status=255)
    missing = re.findall(r"^(?:error: )?(\S+): (\S+) is missing$", said, re.MULTILINE)
    values = yaml.safe_load((project.folder / "params.yaml").read_text())
    named = {"index.annotations": values["index"]["annotations"], "propose.input": values["propose"]["input"]}
    named |= {f"encoders.{name}.weights": encoder["weights"] for name, encoder in values["encoders"].items()}
    assert dict(missing) == named
    assert "what gets each of them, and what else this profile needs: glimpse doctor\n" in said
    assert "Errno" not in said
    assert "doctor:" in project.dvc("status", "dvc.yaml")
    assert "get it: glimpse fetch data refcoco" in project.typed("glimpse doctor", status=1)


def test_nothing_changed_nothing_runs(project: Project) -> None:
    assert "up to date" in project.dvc("repro", "demo/dvc.yaml")


def test_a_run_stages_nothing_and_its_lock_stays_out_of_git(project: Project) -> None:
    for words, said in (
        (["diff", "--cached", "--name-only"], ""),
        (["status", "--porcelain"], " M demo/metrics.json\n M demo/summary.json\n?? demo/dvc.lock\n"),
    ):
        done = subprocess.run(["git", *words], cwd=project.folder, capture_output=True, text=True, check=True)
        assert done.stdout == said


def test_status_follows_the_graph_from_changed_code(project: Project) -> None:
    file = project.folder / "stages/text/noun_phrase.py"
    code = file.read_text()
    file.write_text(code + "# changed\n")
    environment = {
        **os.environ,
        "COLUMNS": "200",
        "PYTHONPATH": str(project.folder),
        "GLIMPSE_PARAMS": "demo/params.yaml",
    }
    command = [sys.executable, "-m", "pipeline", "status", "--json"]
    said = subprocess.run(
        command, cwd=project.folder, env=environment, capture_output=True, text=True, check=True
    ).stdout
    file.write_text(code)
    state = {stage["stage"].partition("@")[0]: stage["state"] for stage in json.loads(said)["stages"]}
    assert state["parse"] == "changed deps: stages/text/noun_phrase.py modified"
    for stage in ("embed_text", "pair", "score", "sweep"):
        assert state[stage] == "waits for parse"
    for stage in ("index", "propose", "embed_masks", "overlap"):
        assert state[stage] == "up to date"


TABLE = "from store.table import read_table; read_table(Path('data/demo/pairs/vit.h5'), 'pairs')"
VECTORS = (
    "from store.vectors import Vectors; Vectors(Path('data/demo/text_features/vit'), 'text_features').rows('feature')"
)
DOCUMENT = "from store.document import read_document; read_document(Path('{}'), '{}')"


@pytest.mark.parametrize(
    ("file", "reader"),
    [
        ("data/demo/pairs/vit.h5", TABLE),
        ("data/demo/text_features/vit/feature/c/0/0", VECTORS),
        ("data/demo/text_features/vit/manifest.json", VECTORS),
        ("data/demo/grid.json", DOCUMENT.format("data/demo/grid.json", "sweep")),
        ("data/demo/variants/variants.json", DOCUMENT.format("data/demo/variants/variants.json", "variants")),
        ("demo/metrics.json", DOCUMENT.format("demo/metrics.json", "score")),
    ],
)
def test_the_remedy_in_the_message_repairs_a_damaged_output(project: Project, file: str, reader: str) -> None:
    """An output is a hard link into DVC's cache: the bit flips there too, and DVC would put the damaged object back."""
    path, read = project.folder / file, shlex.join(["python", "-c", f"from pathlib import Path; {reader}"])
    good = path.read_bytes()
    assert (path.stat().st_nlink > 1) == (file != "demo/metrics.json")
    flip(path)
    assert path.read_bytes() != good
    said = project.typed(read, 1)
    (remedy,) = re.findall(r"glimpse repair \S+$", said, re.MULTILINE)
    assert "made again" in project.typed(remedy)
    project.typed(read)
    if file == "demo/metrics.json":  # says when it was made, so what is made from it follows
        assert content_of(json.loads(path.read_text())) == content_of(json.loads(good))
        assert project.repro() == ["report"]
    else:
        assert path.read_bytes() == good
    assert "up to date" in project.dvc("status", "demo/dvc.yaml")
    for cached in (project.folder / ".dvc/cache/files/md5").glob("*/*"):
        assert hashlib.md5(cached.read_bytes()).hexdigest() == (cached.parent.name + cached.name).removesuffix(".dir")


def test_the_remedy_works_for_the_root_profile(tmp_path: Path) -> None:
    """Missing outputs too; what is no output is refused."""
    project = Project(tmp_path / "a project")
    values = yaml.safe_load((project.folder / "demo/params.yaml").read_text())
    values |= {
        "root": ".",
        "profile": "params.yaml",
        "data": "data/full",
        "work": ".work/full",
        "metrics": "metrics.json",
        "summary": "summary.json",
    }
    (project.folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    said = project.typed("glimpse repair data/full/parse.h5")  # nothing was ever run
    assert re.findall(r"Running stage '(\w+)'", said) == ["doctor", "index", "parse"]
    file = project.folder / "data/full/parse.h5"
    good = file.read_bytes()
    flip(file, good.index("".join(read_table(file, "parse", ("noun_phrase",))["noun_phrase"])[:30].encode()))
    said = project.typed("dvc repro --single-item embed_text", 255)
    (remedy,) = re.findall(r"glimpse repair \S+$", said, re.MULTILINE)
    assert re.findall(r"Running stage '(\w+)'", project.typed(remedy)) == ["parse"]
    assert file.read_bytes() == good
    assert "error: params.yaml: expected an output of a stage" in project.typed("glimpse repair params.yaml", 1)
    assert not project.typed("git diff --cached --name-only"), "something was staged behind the user's back"


def test_alpha_reruns_score_ablations_and_report_only(project: Project) -> None:
    project.set(score={"alpha": 0.25})
    assert sorted(project.repro()) == sorted(AFTER_SCORE)
    assert "score.alpha" in project.dvc("params", "diff")


def test_a_template_reruns_text_and_what_follows(project: Project) -> None:
    project.set(embed_text={"template": "a photo of {}"})
    assert sorted(project.repro()) == sorted(["embed_text", *AFTER_PAIR])


def test_a_new_k_reruns_embed_masks_and_what_follows_but_keeps_local_features(project: Project) -> None:
    local = project.folder / ".work/demo/embed_masks@vit/local"
    before = {path: path.stat().st_mtime_ns for path in local.rglob("*.npz")}
    project.set(embed_masks={"masked_blocks": [2, 3]})
    assert sorted(project.repro()) == sorted(["embed_masks", *AFTER_PAIR])
    assert {path: path.stat().st_mtime_ns for path in local.rglob("*.npz")} == before
    assert project.record("embed_masks")["wrote"].keys() == {"local", "global.k2", "global.k3"}


def test_metrics_and_experiments_work_offline(project: Project) -> None:
    subprocess.run(["git", "add", "-A"], cwd=project.folder, check=True)
    subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "run"], cwd=project.folder, check=True
    )
    assert "refshapes+.testA" in project.dvc("metrics", "show")
    said = project.dvc("exp", "run", "-S", "demo/params.yaml:score.alpha=0.75", "-n", "a75", "demo/dvc.yaml")
    assert sorted(re.findall(r"Running stage 'demo/dvc\.yaml:(\w+)'", said)) == sorted(AFTER_SCORE)
    table = project.dvc("exp", "show", "--only-changed", "--csv")
    assert "a75" in table
    assert "0.75" in table


def test_queued_experiments_run_apart_from_the_working_tree(project: Project) -> None:
    """As docs/results.md says: in a temporary folder, with a copy of what git does not have, from DVC's cache of runs."""
    before = {path: path.read_bytes() for path in project.folder.glob("demo/*.json")}
    for alpha in (0.2, 0.4):
        project.dvc("exp", "run", "--queue", "-S", f"demo/params.yaml:score.alpha={alpha}", "-n", f"q{round(alpha * 100)}",
                    "-C", "data/refshapes", "demo/dvc.yaml")  # fmt: skip
    said = project.dvc("exp", "run", "--run-all")
    assert sorted(re.findall(r"Running stage 'demo/dvc\.yaml:(\w+)'", said)) == sorted(AFTER_SCORE * 2)
    assert [line.split()[-1] for line in project.dvc("queue", "status").splitlines() if "q" in line] == ["Success"] * 2
    assert {path: path.read_bytes() for path in before} == before
    table = project.dvc("exp", "show", "--only-changed", "--csv")
    assert all(name in table for name in ("q20", "q40"))
    missing = project.typed("dvc exp run --temp -S demo/params.yaml:score.alpha=0.3 demo/dvc.yaml", 255)
    assert "data/refshapes" in missing, "without -C it says which path a temporary folder lacks"


def test_a_misspelt_parameter_stops_the_run_and_names_the_nearest(project: Project) -> None:
    project.set(score={"alhpa": 0.5})
    with pytest.raises(AssertionError, match="unknown parameter 'alhpa'; did you mean 'alpha'"):
        project.repro()


def test_a_run_that_lost_files_is_tried_again_by_the_next(tmp_path: Path) -> None:
    """The image folder is no dependency of DVC: what tells it is the exit status."""
    project = Project(tmp_path / "project")
    pictures = project.folder / "data/pictures"
    (project.folder / "data/refshapes/images").rename(pictures)  # where no dependency of DVC sees them
    params = project.folder / "demo/params.yaml"
    params.write_text(
        yaml.safe_dump({**yaml.safe_load(params.read_text()), "images": "data/pictures"}, sort_keys=False)
    )
    images = sorted(pictures.glob("*.png"))
    kept = tmp_path / images[0].name

    def repro() -> list[str]:
        said = project.dvc("repro", "demo/dvc.yaml:embed_masks")
        return re.findall(r"Running stage 'demo/dvc\.yaml:(\w+)(?:@\w+)?'", said)

    images[0].rename(kept)
    with pytest.raises(AssertionError, match="stopped: 1 file was not there"):
        repro()
    kept.rename(images[0])
    assert repro() == ["index", "propose", "embed_masks"]
    assert repro() == []
    shutil.rmtree(project.folder / ".work/demo/embed_masks@vit")
    project.set(embed_masks={"fill": "mean"})
    images[0].rename(kept)
    with pytest.raises(AssertionError, match="stopped: 1 file was not there"):
        repro()
    kept.rename(images[0])
    assert repro() == ["embed_masks"]
    record = project.record("embed_masks")
    assert record["computed"]["images"] == 1
    assert record["reused"]["images"] > 1
