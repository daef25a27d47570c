"""The code that each stage of dvc.yaml depends on, written from the imports: ``python -m pipeline.deps`` (``make deps``).

DVC runs a stage again when a file of its ``deps`` changed; a file that is imported but not listed would leave it silently
"up to date". So the list is generated, and a test compares. A folder stands for its files where the stage imports them all:
DVC reads and writes every entry of its lock file again after every stage.

The dvc.yaml of another profile is made from the root's: ``python -m pipeline.deps FOLDER`` writes that of FOLDER/params.yaml.
Its commands differ in fixed words, since a value of a params file in a command would reach a shell.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Literal

from pipeline.registry import STAGES, UP_TO_PAIR, module_name
from stages.clip.backbone import BACKBONES
from store.errors import ParameterError
from store.fingerprint import ROOT, import_closure
from store.publish import write_file

DVC_FILE, DEMOS = ROOT / "dvc.yaml", ("demo", "demo/methods")
_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
"""Names of folders that a shell takes as they are."""
TEMPLATES = {"report": "stages/page/templates"}
"""Stage -> folder of files that it reads beside its code."""
_TOPS = ("pipeline", "stages", "store")
_CODE = re.compile(rf"^ +- (?:{'|'.join(_TOPS)})(?:/\S*)?\n", re.MULTILINE)
_DEPS = re.compile("^( +)deps:\n", re.MULTILINE)


def code_deps(stage: str) -> list[str]:
    """What ``stage`` imports of this project, directly or not, and its templates; for `variants` also what its reruns do.

    Returns:
        Files, or a folder in place of all its files, from the project's root; sorted.
    """
    stages = [stage, *(UP_TO_PAIR if stage == "variants" else ())]
    modules = [*map(module_name, stages), *(tower for each in stages for tower in _towers(each))]
    files = {path for module in modules for path in import_closure(module)}
    if stage == "variants":
        files |= {ROOT / "pipeline/registry.py", ROOT / "pipeline/reruns.py"}
    whole = {folder for folder, code in _folders().items() if code <= files}
    if stage in TEMPLATES:
        whole.add(ROOT / TEMPLATES[stage])
    outermost = {path for path in files | whole if whole.isdisjoint(path.parents)}
    return sorted(path.relative_to(ROOT).as_posix() for path in outermost)


@cache
def _folders() -> dict[Path, set[Path]]:
    """Folder -> the files of code in it and below; an empty file, as of a package, is none."""
    found: dict[Path, set[Path]] = {}
    for top in _TOPS:
        for path in (ROOT / top).rglob("*.py"):
            for folder in path.relative_to(ROOT).parents[:-1] if path.stat().st_size else ():
                found.setdefault(ROOT / folder, set()).add(path)
    return found


def _towers(stage: str) -> list[str]:
    """The modules that a stage reaches through the registry of backbones, which names them as text."""
    sides: dict[str, list[Literal["visual", "text"]]] = {"embed_masks": ["visual"], "embed_text": ["text"]}
    sides["heat"] = ["visual", "text"]
    return [name for kind in BACKBONES.values() for side in sides.get(stage, []) for name in kind.modules(side)]


def with_deps(text: str) -> str:
    """``text`` of dvc.yaml with the code dependencies of every stage as they should be, after its other ones."""
    for stage in STAGES:
        start = text.index(f"\n  {stage}:\n")
        heading = _DEPS.search(text, start)
        assert heading is not None, f"dvc.yaml: stage {stage} has no deps"
        first, indent = heading.end(), f"{heading[1]}  - "  # deeper where a stage stands below `do`
        end = first + len(re.match(rf"(?:{indent}\S+\n)*", text[first:])[0])  # type: ignore[index]
        others = _CODE.sub("", text[first:end])
        text = text[:first] + others + "".join(f"{indent}{file}\n" for file in code_deps(stage)) + text[end:]
    return text


def for_profile(text: str, folder: str) -> str:
    """``text`` of the root's dvc.yaml as it stands in ``folder``, for the params file beside it.

    Raises:
        ParameterError: ``folder`` has other characters than letters, digits, '_', '-', '.' and '/', or leaves the project.
    """
    if not _FOLDER.fullmatch(folder):
        raise ParameterError(
            f"{folder!r}: expected a folder below the project's, named with letters, digits, '_', '-' and '.', since its "
            "name stands in commands; rename it"
        )
    way = "/".join([".."] * len(PurePosixPath(folder).parts))
    for of_root, of_folder in (
        ("wdir: .\n", f"wdir: {way}\n"),
        ("--profile params.yaml\n", f"--profile {folder}/params.yaml\n"),
        ("--params params.yaml\n", f"--params {folder}/params.yaml\n"),
        ("- params.yaml:\n", f"- {folder}/params.yaml:\n"),
        ("\n  - ${data}/plots/", f"\n  - {way}/${{data}}/plots/"),  # plots start at the file, not at a stage's wdir
    ):
        text = text.replace(of_root, of_folder)
    return text


def main(folders: Sequence[str] = (), file: Path = DVC_FILE) -> None:
    """Write ``file`` with its code dependencies, and the dvc.yaml of the demos' and other profiles in ``folders``."""
    text = with_deps(file.read_text(encoding="utf-8"))
    write_file(file, text)
    for folder in (*DEMOS, *folders):
        write_file(file.parent / folder / file.name, for_profile(text, folder))


if __name__ == "__main__":
    main(sys.argv[1:])
