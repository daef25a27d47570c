"""Files that are none: pipes, devices, links out of the images; pictures too thin or too large; by one rule each."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from PIL import Image

from stages.clip.forms import weights_digest
from stages.clip.state_dict import read_state_dict
from stages.datasets.files import read_json
from stages.proposals.forms.given import read_value
from store.errors import DataError, GlimpseError, WeightsError
from store.images import MOST_ASPECT, MOST_PIXELS, load_image, open_image, read_image, require_size
from store.regular import NotPlain, leaves, read_regular
from store.untrusted import load_refs
from tests.faults.test_bombs import guarded


def picture(path: Path, size: tuple[int, int] = (8, 6)) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "red").save(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


READERS = {
    "an image": ("from store.images import load_image", "load_image({})"),
    "an indexed image": ("from store.images import read_image", "read_image({}.parent, {}.name, '')"),
    "an image to index": ("from store.images import open_image", "open_image({}.parent, {}.name)"),
    "refs": ("from store.untrusted import load_refs", "load_refs({})"),
    "annotations": ("from stages.datasets.files import read_json", "read_json({}, 'x')"),
    "proposals": ("from stages.proposals.forms.given import read_value", "read_value({})"),
    "lines of proposals": ("from stages.proposals.forms.given import lines", "list(lines({}))"),
    "a label map": ("from stages.proposals.forms.pictures import read_values", "read_values({})"),
    "phrases": ("from stages.datasets.phrases import phrase_rows", "phrase_rows({})"),
    "a params file": ("from pipeline.params_file import read_params", "read_params({})"),
    "a model config": ("from stages.clip.config import _read_json", "_read_json({})"),
    "weights": ("from stages.clip.forms import form_of", "form_of({})"),
    "a digest of weights": ("from stages.clip.forms import weights_digest", "weights_digest({})"),
}


@pytest.mark.parametrize("kind", ["pipe", "link to a device", "link to a pipe", "folder", "circle"])
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_plain_file_is_refused_at_once(tmp_path: Path, reader: str, kind: str) -> None:
    path = tmp_path / "x.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to a device":
        path.symlink_to("/dev/zero")
    elif kind == "link to a pipe":
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to("pipe")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("x.png")
    imports, call = READERS[reader]
    said = guarded(imports, call.replace("{}", f"Path({str(path)!r})"))
    assert said.startswith("refused: "), said
    assert "x.png" in said


def test_readers_take_plain_files_and_links_to_them(tmp_path: Path) -> None:
    """The table above names functions that do read: none refuses everything."""
    digest = picture(tmp_path / "a/x.png")
    (tmp_path / "a/y.png").symlink_to("x.png")
    (tmp_path / "root").symlink_to("a")
    assert open_image(tmp_path / "root", "y.png") == (digest, (6, 8))
    assert read_image(tmp_path / "root", "y.png", digest).size == load_image(tmp_path / "root/y.png").size
    (tmp_path / "x.json").write_text("[]")
    assert read_json(tmp_path / "x.json", "x") == read_value(tmp_path / "x.json") == []
    assert weights_digest(tmp_path / "x.json") == hashlib.sha256(b"[]").hexdigest()
    with pytest.raises(WeightsError, match="JSON text"):
        read_state_dict(tmp_path / "x.json")
    with pytest.raises(DataError, match="not a pickle"):
        load_refs(tmp_path / "x.json")


def test_a_file_is_read_up_to_a_bound(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    assert read_regular(tmp_path / "x", 5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes"):
        read_regular(tmp_path / "x", 4)
    with pytest.raises(NotPlain, match="a pipe, a device or a socket"):
        read_regular(Path("/dev/null"))


@pytest.mark.parametrize(
    ("link", "target", "out"),
    [
        ("images/x.png", "y.png", False),
        ("images/a/x.png", "../y.png", False),
        ("images/train", "other", False),
        ("images/x.png", "../secret.png", True),
        ("images/x.png", "/etc/passwd", True),
        ("images/train", "..", True),
        ("images/train", "../images/other", False),
    ],
)
def test_links_may_lead_within_the_images_only(tmp_path: Path, link: str, target: str, out: bool) -> None:
    root = tmp_path / "images"
    (root / "a").mkdir(parents=True)
    digest = picture(root / "y.png")
    picture(root / "other/y.png")
    picture(tmp_path / "secret.png")
    (tmp_path / link).symlink_to(target)
    name = (tmp_path / link).relative_to(root).as_posix()
    name = f"{name}/y.png" if "train" in name and not out else f"{name}/secret.png" if "train" in name else name
    assert leaves(root, root / name) == out
    if not out:
        assert read_image(root, name, digest).size == (8, 6)
        return
    for read in (lambda: open_image(root, name), lambda: read_image(root, name, digest)):
        with pytest.raises(DataError, match="leads out of the folder of images"):
            read()


@pytest.mark.parametrize(
    ("width", "height", "said"),
    [
        (5000, 1, "longer than 20 times"),
        (1, 5000, "longer than 20 times"),
        (MOST_ASPECT * 7 + 1, 7, "longer than 20 times"),
        (8192, 4097, "more than 33,554,432 pixels"),
        (0, 5, "has no pixel"),
        (-3, 5, "has no pixel"),
    ],
)
def test_pictures_too_thin_or_too_large_by_one_rule(width: int, height: int, said: str) -> None:
    with pytest.raises(DataError, match=said):
        require_size("x", width, height)


def test_the_limits_themselves_are_allowed() -> None:
    require_size("x", MOST_ASPECT * 7, 7)
    require_size("x", 8192, 4096)
    assert MOST_PIXELS == 8192 * 4096


@pytest.mark.parametrize("size", [(1001, 50), (50, 1001)])
def test_every_way_to_open_a_picture_asks_the_rule(tmp_path: Path, size: tuple[int, int]) -> None:
    digest = picture(tmp_path / "x.png", size)
    for read in (
        lambda: load_image(tmp_path / "x.png"),
        lambda: open_image(tmp_path, "x.png"),
        lambda: read_image(tmp_path, "x.png", digest),
    ):
        with pytest.raises(GlimpseError, match="longer than 20 times its short side; cut it"):
            read()
