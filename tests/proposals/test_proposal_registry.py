"""The records of the proposal sources, and the one declaration of FreeSOLO's defaults."""

from __future__ import annotations

import inspect
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pipeline.arguments import checked
from stages import propose
from stages.page.comparison import PAPER
from stages.proposals.freesolo import FreeSolo
from stages.proposals.items import no_proposals
from stages.proposals.registry import SOURCES, ProposalSource
from stages.proposals.settings import RELEASED, STRIDES, DecodeSettings
from store.errors import ParameterError
from tests.helpers.proposal_files import Project

THRESHOLDS = {"score_threshold": 0.1, "update_threshold": 0.05, "max_candidates": 500, "max_proposals": 100}
"""FreeSOLO's released configuration."""


def test_the_released_values_are_the_defaults_everywhere() -> None:
    assert asdict(RELEASED) == {**THRESHOLDS, "box": "reference", "strides": (8, 8, 16, 32, 32)}
    assert DecodeSettings() == RELEASED
    assert RELEASED.strides == STRIDES
    own = {"short_side": 800, "box": "reference", "precision": "float32", **THRESHOLDS}
    given = inspect.signature(FreeSolo.from_state_dict).parameters
    assert {name: given[name].default for name in own} == own
    assert propose.Params().model_dump() == {"source": "freesolo", **own}
    paper = {name: value for name, value in own.items() if name != "precision"}
    assert PAPER["propose"] == {"source": "freesolo", **paper}


@pytest.mark.parametrize(
    ("source", "used"),
    [
        ("freesolo", ["short_side", *THRESHOLDS, "precision"]),
        ("masks", ["max_proposals"]),
        ("coco", ["max_proposals"]),
        ("instances", []),
    ],
)
def test_a_source_is_told_the_parameters_that_its_record_names(source: str, used: list[str]) -> None:
    given = {"short_side": 64, "score_threshold": 0.5, "max_proposals": 7, "precision": "bf16"}
    params = propose.Params(source=source, **given)
    expected: dict[str, Any] = {**THRESHOLDS, **given}
    assert params.used() == {name: expected[name] for name in used}


def test_an_unknown_source_names_the_nearest() -> None:
    with pytest.raises(
        ParameterError, match=r"propose\.source: .*no proposal source 'freesol'; did you mean 'freesolo'\?"
    ):
        checked(propose.Params, {"source": "freesol"}, "propose")


def test_a_source_gives_an_item_for_each_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = ProposalSource(name="x", module="extra", propose=lambda request: ([no_proposals("none")], {}))
    monkeypatch.setitem(SOURCES._records, "x", record)
    with pytest.raises(
        ParameterError, match="source 'x': expected an item for each of the 6 images, got 1; correct extra"
    ):
        Project(tmp_path).propose(source="x")


def test_a_record_that_names_an_unknown_parameter_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    record = ProposalSource(name="x", module="x", propose=lambda request: ([], {}), parameters=("max_proposal",))
    monkeypatch.setitem(SOURCES._records, "x", record)
    with pytest.raises(ParameterError, match=r"source 'x': it uses a parameter 'max_proposal' .*mean 'max_proposals'"):
        propose.Params(source="x").used()
