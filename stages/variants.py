"""Stage variants: the pair table again for each deliberate difference from the released code, with that switch flipped.

One value of the profile is changed, the stages that depend on it run again up to the pair table, and that table is kept:
`ablations` scores it next to the profile's own. Everything that the switch leaves alone comes from the parts in the work
folder. What a switch costs: polygon_overlap nothing but reading and writing; box and fill the local features; antialias and
preprocess all visual features. Other prompts (``templates``) are measured in the same way and cost their texts.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from stages.contract import Context, Listed, Profile, Summary
from stages.contract import Params as BaseParams
from stages.contract import Paths as BasePaths
from stages.proposals.registry import SOURCES
from stages.text.template import Template
from store.document import write_document
from store.errors import ParameterError, StoreError, rerun
from store.publish import remove, replacing
from store.table import Table, read_table

Switch = Literal["polygon_overlap", "box", "fill", "antialias", "preprocess", "release"]

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
"""The value of each switch where the profile does as the released code."""
MIXED: dict[str, Any] = {"views": ["global", "local"], "settings": {}}
"""What masks are embedded by for a variant: the views that global_local mixes, and no others."""


NO_MAPS: dict[str, Any] = {"heat": {"maps": [], "settings": {}}}
"""No heat maps in a variant, whose rule reads none."""


class Params(BaseParams):
    """What is measured besides the profile itself: deliberate differences from the released code, and other prompts."""

    switches: Listed[Switch] = Field(
        [], description="each costs what depends on it once more; `release`: everything as the released code does"
    )
    templates: Listed[Template] = Field([], description="prompts as in embed_text; each costs its texts once")
    sources: Listed[str] = Field(
        [],
        description="other masks: `instances`, the annotated objects, or a file or folder of `variants.folder` in any form of "
        "source masks (COCO results, ...); each costs the features of its masks once",
    )

    @field_validator("sources")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        for name in names:
            if name in SOURCES and SOURCES[name].input:
                raise ValueError(f"{name} reads a file: expected instead the name of that file in variants.folder")
            if not name or Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError(
                    f"expected {' or '.join(read_nothing())}, or the name of a file or folder of masks in "
                    f"variants.folder, got {name!r}"
                )
        return names


def read_nothing() -> list[str]:
    """The sources of masks that read no file."""
    return [name for name in SOURCES if not SOURCES[name].input]


class Paths(BasePaths):
    pairs: Path
    folder: Path
    variants: Path
    outputs: ClassVar[tuple[str, ...]] = ("variants",)


_KEPT: dict[str, tuple[str, ...]] = {
    "embed_text": ("index", "proposals", "parse", "overlap", "mask_features"),
    "embed_masks": ("index", "proposals", "parse", "overlap", "text_features"),
    "propose": ("index", "parse", "text_features"),
    "index": (),
}
"""Section -> the tables that stay the profile's own when a value of it is changed."""


def run(params: Params, paths: Paths, context: Context) -> Summary:
    """Write a pair table for each switch and template, and ``variants.json``, which lists them and names their pair table.

    Raises:
        StoreError: the pair table given is not that of the profile's other tables.
    """
    profile, total = context.profile, Summary()
    if profile is None:
        raise ParameterError("variants: expected the params file whose stages it runs again; give --profile FILE")
    base = read_table(paths.pairs, "pairs", ())
    switches, templates, other_sources = [], [], []
    with replacing(paths.variants) as temporary:
        temporary.mkdir(parents=True)

        def keep(name: str, change: dict[str, dict[str, Any]]) -> dict[str, str]:
            scratch = context.work / name
            shutil.copyfile(profile.pair_table(change | NO_MAPS, scratch, context, total), temporary / f"{name}.h5")
            remove(scratch)
            variant = read_table(temporary / f"{name}.h5", "pairs", ())
            _require_same_inputs(base, variant, change)
            return {"file": f"{name}.h5", "digest": variant.digest}

        for switch in dict.fromkeys(params.switches):
            values = RELEASED if switch == "release" else {switch: _other(profile, switch)}
            change: dict[str, dict[str, Any]] = (
                {"embed_masks": dict(MIXED)} if values.keys() != {"polygon_overlap"} else {}
            )
            for name, value in values.items():
                change.setdefault(SECTION[name], {})[name] = value
            setting = ", ".join(f"{name} = {value}" for name, value in values.items())
            released = values.items() <= RELEASED.items()
            switches.append({"name": switch, **keep(switch, change), "setting": setting, "release": released})
        for number, source in enumerate(dict.fromkeys(params.sources), 1):
            change = {"propose": _masks_of(source, paths.folder), "embed_masks": MIXED}
            other_sources.append({**keep(f"source{number}", change), "source": source})
        for number, template in enumerate(dict.fromkeys(params.templates), 1):
            kept = keep(f"template{number}", {"embed_text": {"template": template}})
            templates.append({**kept, "template": template})
        content = {"pairs": base.digest, "switches": switches, "templates": templates, "sources": other_sources}
        write_document(temporary / "variants.json", content, "variants")
    total.wrote = {"pair tables": len(switches) + len(templates) + len(other_sources)}
    return total


def _masks_of(source: str, folder: Path) -> dict[str, str]:
    """The values of section ``propose`` for an entry of ``sources``.

    Raises:
        ParameterError: it is neither a source that reads nothing nor in ``folder``.
    """
    if source in read_nothing():
        return {"source": source}
    if not (folder / source).exists():
        raise ParameterError(
            f"variants.sources: expected {' or '.join(read_nothing())}, or the name of a file or folder of masks in {folder}, "
            f"got {source!r}, which is not there; put it there, or correct variants.sources"
        )
    return {"source": "masks", "input": str(folder / source)}


def _require_same_inputs(base: Table, variant: Table, change: dict[str, dict[str, Any]]) -> None:
    """Raise a StoreError unless ``variant``, the pair table with ``change``, has the same other inputs as ``base``."""
    shared = set.intersection(*(set(_KEPT[section]) for section in change))
    other = sorted(n for n in shared if base.attrs["made_from"].get(n) != variant.attrs["made_from"][n])
    if other:
        raise StoreError(
            f"variants: {base.path} was made from another {', '.join(other)} than the profile has; {rerun('pair')}"
        )


def _other(profile: Profile, switch: str) -> str:
    """The other value of a switch: the released code's, or ours where the profile has the released code's."""
    configured = profile.value(SECTION[switch], switch)
    if switch == "antialias" and configured == "auto":
        configured = "always" if profile.value("embed_masks", "preprocess") == "clip" else "never"
    return OURS[switch] if configured == RELEASED[switch] else RELEASED[switch]
