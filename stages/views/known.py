"""Every view of this package, registered by being imported: a new file of this folder gets its name here."""

from stages.views import (
    clear_clip,
    clip_surgery,
    gem,
    global_,
    grad_cam,
    local,
    mask_clip,
    nac_clip,
    region_token,
    sclip,
    score_map,
    text_region,
)
from stages.views.registry import VIEWS

__all__ = [
    "VIEWS",
    "clear_clip",
    "clip_surgery",
    "gem",
    "global_",
    "grad_cam",
    "local",
    "mask_clip",
    "nac_clip",
    "region_token",
    "sclip",
    "score_map",
    "text_region",
]
