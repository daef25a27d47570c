"""The table of sources: what it promises, and that its addresses, digests and places are those meant."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pipeline.project import load_project
from pipeline.setup.sources import SOURCES, destination, find, listing_file
from store.errors import ParameterError
from tests.helpers.profile import ROOT

pytestmark = pytest.mark.usefixtures("only_this_machine")


def test_table_has_what_the_commands_promise() -> None:
    names = [(source.kind, source.name) for source in SOURCES]
    weights = [("weights", name) for name in ("clip", "clip-rn50", "freesolo", "spacy")]
    data = [("data", name) for name in ("refcoco", "refcoco+", "refcocog", "phrasecut", "coco-train2014")]
    assert names == weights + data
    with pytest.raises(ParameterError, match="nothing is called 'refcoc'; did you mean 'refcoco"):
        find("data", "refcoc")


@pytest.mark.parametrize("profile", ["params.yaml", "demo/params.yaml"])
def test_addresses_are_well_formed_and_destinations_lie_inside_the_project(profile: str) -> None:
    project = load_project(ROOT / profile)
    for source in SOURCES:
        assert source.licence
        for item in source.items:
            parts = urlsplit(item.url)
            assert parts.scheme in ("https", "http")
            assert "." in parts.netloc
            assert not set(parts.netloc) - set("abcdefghijklmnopqrstuvwxyz0123456789.-")
            assert item.url.isascii()
            assert " " not in item.url
            assert item.size > 0 or (item.about and not item.digest)
            assert len(item.digest) in (0, 64)
            assert not set(item.digest) - set("0123456789abcdef")
            assert bool(item.digest) == bool(item.digest_from)
            assert destination(project, item).resolve().is_relative_to(ROOT.resolve())
            assert destination(project, item).resolve() != ROOT.resolve()


def test_the_full_profile_finds_what_is_fetched() -> None:
    project = load_project(ROOT / "params.yaml")
    values = project.values
    at = {item.name: destination(project, item) for source in SOURCES for item in source.items}
    assert at["ViT-B-32.pt"] == project.path(values.main_encoder.weights)
    assert at["FreeSOLO_R101_30k_pl.pth"] == project.path(values.propose.input)
    assert at["refcoco+.zip"] == project.path("data/refer/refcoco+")
    assert at["VGPhraseCut_v0.zip"] == project.path("data/refer/phrasecut")
    listed = listing_file(project, find("data", "phrasecut"), "image_data_split3000.json")
    assert listed == project.path("data/refer/phrasecut/image_data_split3000.json")
    assert at["train2014.zip"].name == "train2014"
    assert at["images.zip"] == at["images2.zip"]
    assert at["images.zip"].name == "phrasecut"


def test_clip_addresses_and_digests_are_those_of_open_clip() -> None:
    spec = find_spec("open_clip")
    assert spec
    assert spec.submodule_search_locations
    text = (Path(spec.submodule_search_locations[0]) / "pretrained.py").read_text()
    for name in ("clip", "clip-rn50"):
        item = find("weights", name).items[0]
        assert f'"{item.url}"' in text
        assert item.url.split("/")[-2] == item.digest


def test_only_phrasecut_and_its_images_have_no_known_digest() -> None:
    unknown = {item.name for source in SOURCES for item in source.items if not item.digest}
    assert unknown == {"VGPhraseCut_v0.zip", "images.zip", "images2.zip"}


def test_docs_name_every_command() -> None:
    text = (ROOT / "docs/data.md").read_text()
    for source in SOURCES:
        assert f"`glimpse fetch {source.kind} {source.name}`" in text
        assert all(item.name in text for item in source.items)
