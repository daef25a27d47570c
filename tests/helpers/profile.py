"""A small profile for tests: RefShapes in a temporary folder, run through the very commands of dvc.yaml, in process."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from pipeline.registry import STAGES
from pipeline.runner import run_words

ROOT = Path(__file__).resolve().parents[2]
_STAGES: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
DOCTOR: dict[str, Any] = _STAGES.pop("doctor")
DVC_STAGES: dict[str, Any] = {name: stage.get("do", stage) for name, stage in _STAGES.items()}
FOREACH = {name: stage["foreach"] for name, stage in _STAGES.items() if "foreach" in stage}


def plain_values() -> dict[str, Any]:
    """The demo's params with its main encoder alone, the views and rules of global_local, no variants, no search."""
    values: dict[str, Any] = yaml.safe_load((ROOT / "demo/params.yaml").read_text())
    main = values["encoder"]
    values["encoders"] = {main: values["encoders"][main]}
    values["embed_masks"] |= {"views": ["global", "local"], "masked_blocks": [3], "settings": {}}
    values["rules"] = {"enabled": ["global_local", "global", "cropping"]}
    values["variants"] |= {"switches": [], "sources": [], "templates": []}
    values["ablations"]["tune"] = {}
    return values


def demo_values(folder: Path) -> dict[str, Any]:
    """``plain_values`` with data, work, metrics and images below ``folder``."""
    values = plain_values()
    values |= {
        "root": ".",
        "profile": f"{folder}/params.yaml",
        "data": f"{folder}/data",
        "work": f"{folder}/work",
        "metrics": f"{folder}/metrics.json",
        "summary": f"{folder}/summary.json",
        "extensions": f"{folder}/extensions",
    }
    values["images"] = f"{folder}/refer/images"
    values["index"]["annotations"] = f"{folder}/refer"
    values["models"] = str(ROOT / "demo/models")
    for section in (values["propose"], *values["encoders"].values()):
        section |= {n: str(ROOT / v) for n, v in section.items() if str(v).startswith("demo/models")}
    return values


def profile_at(folder: Path, refer: Path) -> dict[str, Any]:
    """``demo_values`` over the benchmark files in ``refer``, with a small sweep and page."""
    values = demo_values(folder)
    values["index"]["annotations"], values["images"] = str(refer), str(refer / "images")
    values["sweep"] |= {"alphas": 3, "betas": 3}
    values["report"] = {"cards": 1}
    return values


def run_stages(values: dict[str, Any], *names: str) -> dict[str, dict[str, Any]]:
    """Run the named stages (all by default) with the words of their dvc.yaml command; return their records."""
    Path(values["profile"]).write_text(yaml.safe_dump(values))
    records = {}
    for name in names or STAGES:
        for key in values["encoders"] if name in FOREACH else [""]:
            words = command_of(name, values, key)
            record = run_words(name, words[words.index(name) + 1 :])
            if key in ("", values["encoder"]):
                records[name] = record
    return records


def lookup(name: str, values: Any) -> Any:
    """A value of the profile; ``key`` and ``item`` of ``foreach`` are the main encoder's unless they are given."""
    values = {"key": values["encoder"], "item": values["encoders"][values["encoder"]]} | values
    for part in name.split("."):
        values = values[part]
    return values


def unfold(text: str, values: Any) -> str:
    """``${a.b}`` replaced by the value, as DVC does."""
    return re.sub(r"\$\{([^}]+)\}", lambda match: str(lookup(match[1], values)), text)


def command_of(stage: str, values: Any, encoder: str = "") -> list[str]:
    """The words of a stage's command in dvc.yaml, for the params file of ``values``; DVC_STAGE's encoder is a word here."""
    words = shlex.split(DVC_STAGES[stage]["cmd"])
    words[words.index("--profile") + 1] = values["profile"]
    return words + (["--encoder", encoder or values["encoder"]] if stage in FOREACH else [])
