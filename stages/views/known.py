"""Every view of this package, registered by being imported: a new file of this folder gets its name here."""

from stages.views import (
    blur,
    clear_clip,
    clip_surgery,
    gem,
    global_,
    grad_cam,
    hybrid,
    hybrid_g2l,
    hybrid_l2g,
    local,
    mask_clip,
    nac_clip,
    red_circle,
    region_token,
    sclip,
    score_map,
    text_region,
)
from stages.views.registry import VIEWS

__all__ = [
    "VIEWS",
    "blur",
    "clear_clip",
    "clip_surgery",
    "gem",
    "global_",
    "grad_cam",
    "hybrid",
    "hybrid_g2l",
    "hybrid_l2g",
    "local",
    "mask_clip",
    "nac_clip",
    "red_circle",
    "region_token",
    "sclip",
    "score_map",
    "text_region",
]
