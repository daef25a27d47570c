"""The parts and records in a profile's work folder."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from pipeline.checks.fault import Fault
from pipeline.project import LoadedProject
from pipeline.registry import STAGES
from store.document import read_record
from store.errors import StoreError
from store.publish import remove
from store.verify_parts import bad_parts


def check_work(project: LoadedProject) -> Iterator[Fault]:
    """What is damaged of the parts and records, also of encoders that the profile no longer has."""
    work = project.path(project.values.work)
    for folder in sorted(work.glob("*/*/*")):
        stage = folder.relative_to(work).parts[0]
        if stage.partition("@")[0] in STAGES and folder.is_dir():
            for bad in bad_parts(folder):
                kind = "manifest line" if bad.line else "configuration" if bad.path.suffix == ".json" else "part"
                yield Fault(kind, stage, bad.path, bad.what, bad.drop, bad.line)
    for file in sorted(work.glob("records/*.json")):
        try:
            read_record(file)
        except StoreError as error:
            yield Fault("record", file.stem, file, str(error).removeprefix(f"{file}: "), partial(remove, file))
