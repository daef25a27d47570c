"""`make methods` in short: its profile, with every view, text, map and rule, on a few scenes."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from demo.refshapes import write_benchmark
from stages.heat_maps.known import HEAT_MAPS
from stages.scoring.rules.known import RULES
from stages.views.known import VIEWS
from tests.helpers.profile import ROOT, run_stages

ELSEWHERE = {
    "views": {"score_map", "grad_cam", "hybrid"},  # of ResNets, which the demo has; hybrid is the sum of two others
    "rules": {"score_map", "grad_cam", "grad_cam_released", "weighted", "heat"}  # the same; any cells; imported maps
    | {"clip_seg", "group_vit"},
    "maps": {"imported", "clip_seg", "group_vit"},  # the latter need models that are not here
}


def test_the_profile_names_every_method_and_scores_it(tmp_path: Path) -> None:
    values = yaml.safe_load((ROOT / "demo/methods/params.yaml").read_text())
    assert set(values["embed_masks"]["views"]) == set(VIEWS) - ELSEWHERE["views"]
    assert set(values["rules"]["enabled"]) == set(RULES) - ELSEWHERE["rules"]
    assert set(values["heat"]["maps"]) == set(HEAT_MAPS) - ELSEWHERE["maps"]

    write_benchmark(tmp_path / "refer", images_per_split=2)
    for name in ("data", "work", "metrics", "summary"):
        values[name] = str(tmp_path / Path(values[name]).name)
    values |= {"root": ".", "profile": str(tmp_path / "params.yaml"), "images": str(tmp_path / "refer/images")}
    values["index"]["annotations"] = str(tmp_path / "refer")
    values["bootstrap"]["resamples"] = 20
    for section in (values["propose"], *values["encoders"].values()):
        section |= {key: str(ROOT / value) for key, value in section.items() if str(value).startswith("demo/models")}
    for key in ("models", "extensions"):
        values[key] = str(ROOT / values[key])
    values["heat"]["folder"] = str(ROOT / values["heat"]["folder"])
    run_stages(values, "index", "propose", "embed_masks", "parse", "embed_text", "overlap", "heat", "pair", "score")
    metrics = json.loads(Path(values["metrics"]).read_text())
    for dataset in values["index"]["datasets"]:
        for content in metrics[dataset].values():
            assert set(values["rules"]["enabled"]) <= set(content)
            assert all(0 <= content[rule]["miou"] <= 1 for rule in values["rules"]["enabled"])
