"""The first stage of dvc.yaml: whether the files that DVC itself looks for are there, before any stage needs them.

Where one is missing DVC ends with the system's error and its name alone, and has no place for a word on what gets it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from pipeline.project import LoadedProject, with_params
from pipeline.runner import require_place
from store.errors import DataError
from store.publish import write_file

RECORD = "doctor.json"
"""Its file in ``data``. It is always the same: that it is there says that the inputs were, when stage index first ran."""


def require_inputs(project: LoadedProject) -> None:
    """Write the record that stage index depends on.

    Raises:
        ParameterError: DVC could not keep the record. DataError: names every input that is missing, by the key of the params
            file, and the command that tells what gets them.
    """
    require_place(project)
    missing = [f"{key}: {path} is missing{remedy}" for key, path, remedy in inputs(project) if not path.exists()]
    if missing:
        doctor = with_params(project, "glimpse doctor")
        raise DataError("\n".join([*missing, f"what gets each of them, and what else this profile needs: {doctor}"]))
    write_file(project.path(project.values.data) / RECORD, '{"inputs": "there"}\n')


def inputs(project: LoadedProject) -> Iterator[tuple[str, Path, str]]:
    """Key of the params file, path and remedy ("" for what doctor tells of) of each file or folder that a stage of dvc.yaml
    depends on and none makes; those of ``extensions`` come with the project."""
    values = project.values
    files = {"index.annotations": values.index.annotations, "propose.input": values.propose.input}
    files |= {f"encoders.{name}.weights": encoder.weights for name, encoder in values.encoders.items()}
    yield from ((key, project.path(file), "") for key, file in files.items())
    may_be_empty = {
        "models": values.models,
        "heat.folder": values.heat.folder,
        "variants.folder": values.variants.folder,
    }
    for key, folder in may_be_empty.items():
        path = project.path(folder)
        yield key, path, f"; run: mkdir -p {quote(str(path))}"
