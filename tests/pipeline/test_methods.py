"""``glimpse methods``: everything that can be named, what it needs and costs, and whether a profile can compute it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.cli import app
from stages.clip.backbone import BACKBONES
from stages.heat_maps.known import HEAT_MAPS
from stages.scoring.products import TEXTS
from stages.scoring.rules.known import RULES
from stages.views.known import VIEWS
from store.registry import load_extensions
from tests.helpers.profile import demo_values

KINDS = ("view", "text", "heat", "rule", "backbone", "encoder")
RULE = """
from stages.scoring.rules.registry import RULES, Rule

RULES.add(
    Rule(name="confidence", module=__name__, label="C", formula="c", scores=lambda pairs, scoring, settings: pairs.dots.a)
)
"""
VIEW = """
from stages.views.registry import VIEWS, View

VIEWS.add(
    View(name="nothing", module=__name__, meaning="m", labels=lambda settings: {"nothing": {}}, open=None)
)
"""


def listed(folder: Path, **changes: Any) -> dict[tuple[str, str], dict[str, Any]]:
    """(kind, name) -> entry of a profile of the demo with these sections' values changed."""
    values = demo_values(folder)
    for section, change in changes.items():
        values[section] = values[section] | change
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    done = CliRunner().invoke(app, ["methods", "--json", "--params", f"{folder}/params.yaml"], catch_exceptions=False)
    assert done.stderr.startswith("profile ")
    entries = json.loads(done.stdout)
    return {(entry["kind"], entry["name"]): entry for entry in entries}


def test_the_shape_of_the_json(tmp_path: Path) -> None:
    entries = listed(tmp_path)
    names = {kind: [name for of, name in entries if of == kind] for kind in KINDS}
    assert sum(map(len, names.values())) == len(entries)
    assert names == {
        "view": list(VIEWS),
        "text": list(TEXTS),
        "heat": list(HEAT_MAPS),
        "rule": list(RULES),
        "backbone": list(BACKBONES),
        "encoder": ["vit"],
    }
    for entry in entries.values():
        assert list(entry) == ["name", "kind", "needs", "cost", "available", "reason"]
        assert isinstance(entry["needs"], list)
        assert all(isinstance(need, str) for need in entry["needs"])
        assert isinstance(entry["available"], bool)
        assert entry["cost"] not in ("", "not stated")
        assert entry["available"] == (entry["reason"] == "")


def test_what_the_demo_can_compute(tmp_path: Path) -> None:
    entries = listed(tmp_path)
    can = {kind: {name for (of, name), entry in entries.items() if of == kind and entry["available"]} for kind in KINDS}
    assert can == {
        "view": {"global", "local"},
        "text": {"sentence", "phrase"},
        "heat": set(),
        "rule": {
            name
            for name in set(RULES) - {"heat", "clip_es", "clip_seg", "group_vit"}
            if {view for view, _ in cells_of(name)} <= {"global.k3", "local"}
        },
        "backbone": {"vit"},
        "encoder": {"vit"},
    }
    assert {"global_local", "global", "cropping"} <= can["rule"]
    assert entries["view", "gem"]["reason"] == "not enabled: add gem to embed_masks.views"
    assert entries["view", "gem"]["needs"] == ["vit"]
    assert entries["view", "local"]["needs"] == ["vit", "resnet", "timm"]
    assert entries["view", "text_region"]["needs"] == ["vit", "timm"]
    assert entries["rule", "score_map"]["needs"] == ["dot.score_map*sentence"]
    assert entries["rule", "score_map"]["reason"] == "needs view score_map: add score_map to embed_masks.views"
    assert entries["backbone", "resnet"]["reason"] == "no encoder of kind resnet: add one to encoders"
    assert (entries["heat", "clip_es"]["needs"], entries["heat", "imported"]["needs"]) == (
        ["vit"],
        ["vit", "resnet", "timm"],
    )
    assert entries["rule", "clip_es"]["needs"] == ["heat.clip_es"]
    for kind in ("heat", "rule"):
        assert entries[kind, "clip_es"]["reason"] == "not enabled: add clip_es to heat.maps"


def test_rules_of_heat_maps_follow_the_maps(tmp_path: Path) -> None:
    enabled = {"enabled": ["heat"], "settings": {"heat": {"map": "imported"}}}
    entries = listed(tmp_path, heat={"maps": ["imported"]}, rules=enabled)
    assert entries["heat", "imported"]["available"]
    assert entries["rule", "heat"]["available"]
    assert entries["rule", "heat"]["needs"] == ["heat.imported"]
    assert not entries["rule", "clip_es"]["available"]
    none = listed(tmp_path, rules=enabled | {"settings": {"heat": {"map": "improted"}}})["rule", "heat"]["reason"]
    assert none.startswith("there is no heat map improted; did you mean 'imported'?")


def cells_of(name: str) -> list[tuple[str, str]]:
    from stages.scoring.table import Scoring

    rule = RULES[name]
    return rule.needs(Scoring(), rule.settings())


def test_what_changes_with_the_profile(tmp_path: Path) -> None:
    entries = listed(
        tmp_path,
        embed_masks={"views": ["global", "local", "region_token"], "masked_blocks": [1]},
        rules={"enabled": ["region_token"], "settings": {"region_token": {"view": "region_token.no_reference"}}},
    )
    assert entries["view", "region_token"]["available"]
    assert entries["rule", "region_token"]["needs"] == ["dot.region_token.no_reference*sentence"]
    assert "which the settings of embed_masks do not give" in entries["rule", "region_token"]["reason"]
    assert "needs view global.k3, which the settings" in entries["rule", "global"]["reason"]
    assert entries["rule", "cropping"]["available"]


def test_missing_weights_and_configs_are_reasons(tmp_path: Path) -> None:
    values = demo_values(tmp_path)
    encoder = values["encoders"]["vit"]
    entries = listed(tmp_path, encoders={"vit": encoder | {"weights": "none.safetensors"}})
    assert entries["encoder", "vit"]["reason"].endswith("none.safetensors is not there")
    entries = listed(tmp_path, encoders={"vit": encoder | {"model": encoder["model"].replace("clip", "none")}})
    assert not entries["encoder", "vit"]["available"]
    assert "expected a JSON model config" in entries["encoder", "vit"]["reason"]
    assert entries["view", "local"]["available"] is False
    assert "kind of the encoder is not known" in entries["view", "local"]["reason"]


@pytest.mark.parametrize("asked", ["", "--json"])
def test_extensions_are_listed(tmp_path: Path, asked: str) -> None:
    for room, text in (("rules", RULE), ("views", VIEW)):
        (tmp_path / "extensions" / room).mkdir(parents=True)
        (tmp_path / "extensions" / room / "mine.py").write_text(text)
    try:
        if asked:
            entries = listed(tmp_path, embed_masks={"views": ["global", "local", "nothing"]})
            assert entries["rule", "confidence"] | {"cost": ""} == {
                "name": "confidence",
                "kind": "rule",
                "needs": [],
                "cost": "",
                "available": True,
                "reason": "",
            }
            assert entries["view", "nothing"]["available"]
            assert entries["view", "nothing"]["cost"] == "not stated"
        else:
            (tmp_path / "params.yaml").write_text(yaml.safe_dump(demo_values(tmp_path)))
            said = CliRunner().invoke(app, ["methods", "--params", f"{tmp_path}/params.yaml"]).output
            assert "  + confidence" in said
            assert "  - nothing" in said
            assert all(f"\n{kind}\n" in said for kind in KINDS)
    finally:
        load_extensions(tmp_path / "none")
