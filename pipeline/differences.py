"""Stage differences: the pair table again for each deliberate difference from the released code, with that switch turned.

One value of the profile is changed, the stages that depend on it run again up to the pair table, and that table is kept:
`ablations` scores it beside the profile's own. Everything that the switch leaves alone comes from the parts in the work
folder. What a switch costs: polygon_overlap nothing but reading and writing; box and fill the local features; antialias and
preprocess all visual features. Other prompts (``templates``) are measured in the same way and cost their texts.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from pipeline.project import Differences, LoadedProject, load_project
from pipeline.stage_table import stage_module
from pipeline.wiring import SECTIONS, stage_values
from stages.base import Context, Summary
from stages.base import Paths as BasePaths
from store.publish import remove, replacing
from store.table import read_table

SECTION = {
    "polygon_overlap": "index",
    "box": "propose",
    "fill": "embed_masks",
    "antialias": "embed_masks",
    "preprocess": "embed_masks",
}
RELEASED = {"antialias": "never"} | dict.fromkeys(("polygon_overlap", "box", "fill", "preprocess"), "reference")
"""What the released code does."""
OURS = {"polygon_overlap": "union", "box": "tight", "fill": "mean", "antialias": "always", "preprocess": "clip"}
"""What each switch is turned to where the profile does as the released code."""


class Params(Differences):
    """Which switches are turned, and which templates tried, one at a time."""


class Paths(BasePaths):
    profile: Path
    differences: Path
    outputs: ClassVar[tuple[str, ...]] = ("differences",)


def run(params: Params, paths: Paths, context: Context) -> Summary:
    """Write a pair table for each switch and template, and ``differences.json``: their lists, and whose they are."""
    project, total = load_project(paths.profile), Summary()
    switches, templates = [], []
    with replacing(paths.differences) as temporary:
        temporary.mkdir(parents=True)

        def keep(name: str, change: dict[str, dict[str, str]]) -> str:
            scratch = context.work / name
            shutil.copyfile(_pair_table(project, change, scratch, context, total), temporary / f"{name}.h5")
            remove(scratch)
            return f"{name}.h5"

        for switch in dict.fromkeys(params.switches):
            turned = RELEASED if switch == "release" else {switch: _other(project, switch)}
            change: dict[str, dict[str, str]] = {}
            for name, value in turned.items():
                change.setdefault(SECTION[name], {})[name] = value
            setting = ", ".join(f"{name} = {value}" for name, value in turned.items())
            released = turned.items() <= RELEASED.items()
            switches.append({"name": switch, "file": keep(switch, change), "setting": setting, "release": released})
        for number, template in enumerate(dict.fromkeys(params.templates), 1):
            file = keep(f"template{number}", {"embed_text": {"template": template}})
            templates.append({"file": file, "template": template})
        base = read_table(project.table("pairs.h5"), "pairs", ())
        content = {"pairs": base.digest, "switches": switches, "templates": templates}
        (temporary / "differences.json").write_text(json.dumps(content, indent=1) + "\n")
    total.wrote = {"pair tables": len(switches) + len(templates)}
    return total


def _other(project: LoadedProject, switch: str) -> str:
    """The value that a switch is turned to: the released code's, or ours where the profile has the released code's."""
    configured = getattr(getattr(project.values, SECTION[switch]), switch)
    if switch == "antialias":
        configured = "always" if project.values.embed_masks.antialiased else "never"
    return OURS[switch] if configured == RELEASED[switch] else RELEASED[switch]


def _pair_table(
    project: LoadedProject, change: dict[str, dict[str, str]], scratch: Path, context: Context, total: Summary
) -> Path:
    """The pair table of the profile with ``change``: only what it touches runs, into ``scratch``."""
    made: dict[str, Path] = {}
    for stage in SECTIONS:
        module = stage_module(stage)
        params, files = stage_values(project, stage, change)
        before, _ = stage_values(project, stage, {})
        outputs = set(module.Paths.outputs)
        if params == before and not made.keys() & (files.keys() - outputs):
            continue
        made |= {name: scratch / files[name].name for name in outputs}
        paths = module.Paths(**{name: made.get(name, path) for name, path in files.items()})
        _add(total, module.run(params, paths, replace(context, work=context.work.parent / stage)))
    return made.get("pairs", project.table("pairs.h5"))


def _add(total: Summary, summary: Summary) -> None:
    total.parts += summary.parts
    for name in ("computed", "reused", "seconds"):
        sums = getattr(total, name)
        for what, count in getattr(summary, name).items():
            sums[what] = sums.get(what, 0) + count
