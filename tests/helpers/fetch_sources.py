"""Sources of the table with small contents, and fetching them: nothing of the real network."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.project import LoadedProject, load_project
from pipeline.setup.download import FetchError
from pipeline.setup.fetch import fetch
from pipeline.setup.sources import Kind, Source, find
from tests.helpers.profile import ROOT

DATA = bytes(range(256)) * 9
"""Contents of a small file."""
IMAGE_LIST = [
    {"image_id": 11, "split": "val"},
    {"image_id": 22, "split": "test"},
    {"image_id": 33, "split": "train"},
    {"image_id": 44, "split": "test"},
]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def full_project(folder: Path) -> LoadedProject:
    """The full benchmark's profile in ``folder``."""
    shutil.copy(ROOT / "params.yaml", folder / "params.yaml")
    return load_project(folder / "params.yaml")


def zipped(files: Mapping[str, bytes]) -> bytes:
    """A zip file of these, the same bytes at every call: no entry bears the time."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return data.getvalue()


def small(kind: Kind, name: str, contents: Mapping[str, bytes], base: str = "http://127.0.0.1:1/") -> Source:
    """The source ``name`` of the table, its items with these contents, fetched from ``base``.

    A digest stays known where the table knows one, and unknown where not.
    """
    source = find(kind, name)
    items = tuple(
        replace(
            item,
            url=base + item.name,
            size=len(contents[item.name]) if item.size else 0,
            digest=sha(contents[item.name]) if item.digest else "",
        )
        for item in source.items
    )
    return replace(source, items=items)


def clip(base: str = "http://127.0.0.1:1/", data: bytes = DATA) -> Source:
    return small("weights", "clip", {"ViT-B-32.pt": data}, base)


def refcoco(base: str = "http://127.0.0.1:1/") -> Source:
    return small("data", "refcoco", {"refcoco.zip": refcoco_zip()}, base)


def refcoco_files() -> dict[str, bytes]:
    return {"instances.json": b"{}" * 400, "refs(unc).p": b"unc" * 99, "refs(google).p": b"google" * 7}


def refcoco_zip() -> bytes:
    files = {f"refcoco/{name}": data for name, data in refcoco_files().items()}
    return zipped({**files, "__MACOSX/refcoco/._instances.json": b"mac"})


def phrasecut_files() -> dict[str, bytes]:
    """What is in the zip of the annotations; only three of them are taken."""
    return {
        "image_data_split3000.json": json.dumps(IMAGE_LIST).encode(),
        "refer_val.json": b"[1]",
        "refer_test.json": b"[2]",
        "refer_train.json": b"[3]",
        "refer_input_test.json": b"[4]",
    }


def phrasecut_contents() -> dict[str, bytes]:
    return {
        "VGPhraseCut_v0.zip": zipped({f"VGPhraseCut_v0/{name}": data for name, data in phrasecut_files().items()}),
        "images.zip": zipped({"VG_100K/11.jpg": b"eleven", "VG_100K/33.jpg": b"of the training split"}),
        "images2.zip": zipped({"VG_100K_2/22.jpg": b"twenty-two", "VG_100K_2/44.jpg": b"forty-four"}),
    }


def run(project: LoadedProject, source: Source, given: Path | None = None, accepted: bool = False) -> list[str]:
    """Fetch; returns what it said."""
    said: list[str] = []
    fetch(project, source, given, accepted, said.append)
    return said


def refused(project: LoadedProject, source: Source, given: Path | None = None, accepted: bool = False) -> str:
    """The one line of the error with which fetching ends."""
    with pytest.raises(FetchError) as error:
        run(project, source, given, accepted)
    assert "\n" not in str(error.value)
    return str(error.value)


def files_below(folder: Path) -> set[str]:
    """All files but the lock and the profile."""
    paths = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file() or path.is_symlink()}
    return {path for path in paths if not path.endswith(".lock") and path != "params.yaml"}
