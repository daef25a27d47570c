"""``glimpse doctor``: this machine, and everything that a profile needs here, there or missing."""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace

from pipeline.project import LoadedProject
from pipeline.runner import Execution
from pipeline.setup.download import FetchError
from pipeline.setup.holdings import compare, recorded
from pipeline.setup.preflight import Need, needs
from pipeline.setup.sources import command, published


def examine(project: LoadedProject, say: Callable[[str], None] = print) -> bool:
    """Print the machine and every need; whether nothing is missing.

    A weights file that the table of sources knows is read whole and compared with its published or recorded sha256.
    """
    for line in machine():
        say(f"machine  {line}")
    listed = verified(project)
    for need in listed:
        say(f"{'missing' if need.remedy else 'ok     '}  {need}")
        if need.remedy:
            say(f"         get it: {need.remedy}")
    missing = sum(bool(need.remedy) for need in listed)
    say(f"{missing} of {len(listed)} are missing" if missing else f"nothing is missing of {len(listed)}")
    return not missing


def print_json(project: LoadedProject) -> bool:
    """Print the same as JSON (docs/results.md); whether nothing is missing."""
    listed = verified(project)
    rows = [
        {"where": need.where, "what": need.what, "missing": bool(need.remedy), "remedy": need.remedy} for need in listed
    ]
    missing = sum(bool(need.remedy) for need in listed)
    print(json.dumps({"machine": list(machine()), "needs": rows, "missing": missing}, indent=1))
    return not missing


def verified(project: LoadedProject) -> list[Need]:
    """Every need, those of known files with what their sha256 says."""
    return [_verified(project, need) for need in needs(project)]


def machine() -> Iterator[str]:
    """Cores, memory, torch and its device, one line each."""
    yield f"{len(os.sched_getaffinity(0))} cores"
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = (os.sysconf(name) * page / 1e9 for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    yield f"{total:.1f} GB of memory, {free:.1f} GB of it unused now"
    yield f"Python packages: {', '.join(f'{name} {_version(name)}' for name in ('torch', 'spacy', 'dvc'))}"
    yield _device()
    yield precision_gain()


def precision_gain() -> str:
    """Whether half precision would be faster here, measured in a fraction of a second."""
    from stages.device.precision import bf16_gain

    device = Execution.from_environment().device
    gain = bf16_gain(device)
    verdict = "precision: bf16 gains" if gain > 1.2 else "precision: bf16 gains nothing"
    return f"bf16 is {gain:.1f} times as fast as float32 on {device}; {verdict}, and only float32 is exact"


def _device() -> str:
    import torch

    chosen = Execution.from_environment().device
    if not torch.cuda.is_available():
        return f"no CUDA device; GLIMPSE_DEVICE is {chosen}"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    hint = "; GLIMPSE_DEVICE=cuda would use it" if chosen == "cpu" else ""
    return f"CUDA: {', '.join(names)}; GLIMPSE_DEVICE is {chosen}{hint}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "is not installed"


def _verified(project: LoadedProject, need: Need) -> Need:
    """A need whose file is there, with what its sha256 says."""
    known = published(project, need.file) if need.file and not need.remedy else None
    if known is None or need.file is None:
        return need
    source, item = known
    if not item.digest and not recorded(project, item):
        return replace(
            need, what=f"{need.what}; sha256 neither published nor recorded: {command(project, source)} records it"
        )
    try:
        verdict = compare(project, item, need.file)
    except FetchError as error:
        remedy = (
            f"move it away, then: {command(project, source)} (a file of your own: under another name in the params)"
        )
        return replace(need, where="", what=str(error), remedy=remedy)
    return replace(
        need, what=f"{need.what}; sha256 as {'published' if verdict.verified else 'recorded, never verified'}"
    )
