"""Every view of this package, registered by being imported: a new file of this folder gets its name here."""

from stages.views import global_, grad_cam, local, region_token, score_map
from stages.views.registry import VIEWS

__all__ = ["VIEWS", "global_", "grad_cam", "local", "region_token", "score_map"]
