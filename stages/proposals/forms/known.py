"""The forms of masks that Glimpse has: importing this module adds them to the registry. And which one a file or folder is."""

from __future__ import annotations

from pathlib import Path

from stages.proposals.forms import (  # noqa: F401  each adds its form
    amg_folder,
    arrays,
    coco,
    coco_results,
    json_folder,
    json_lines,
    label_maps,
    mmdet,
    sa1b,
    yolo_labels,
)
from stages.proposals.forms.given import Given
from stages.proposals.forms.registry import FORMS, MaskForm
from store.errors import DataError

REMEDY = "name another file or folder in propose.input, or have the generator write it again"


def recognised(path: Path) -> tuple[MaskForm, Given]:
    """The form of a file or folder of masks, and what was seen of it.

    Raises:
        DataError: it cannot be read, or is of no form or of several; with all of them.
    """
    given = Given(path)
    try:
        fitting = [form for form in FORMS.values() if form.recognises(given)]
    except DataError as error:
        raise DataError(f"{path}: expected masks; {error}; {REMEDY}") from error
    if len(fitting) == 1:
        return fitting[0], given
    if fitting:
        names = " and ".join(form.meaning for form in fitting)
        raise DataError(f"{path}: expected masks in one form, found several: {names}; leave one of them in the folder")
    known = "; ".join(form.meaning for form in FORMS.values())
    found = "a folder without such files" if given.is_folder else given.problem or "a value of another form"
    raise DataError(f"{path}: expected masks in a known form ({known}), got {found}; {REMEDY} (docs/data.md)")
