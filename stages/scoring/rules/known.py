"""Every rule of this package, registered by being imported: a new file of this folder gets its name here."""

from stages.scoring.rules import cropping, global_, global_local, grad_cam, region_token, score_map
from stages.scoring.rules.registry import RULES

__all__ = ["RULES", "cropping", "global_", "global_local", "grad_cam", "region_token", "score_map"]
