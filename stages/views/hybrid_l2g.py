"""View hybrid_l2g: the scene blurred outside the mask, to which the masked object is added in CLIP's last blocks (HybridGL)."""

from stages.views.registry import VIEWS
from stages.views.streams import hybrid_view

VIEWS.add(
    hybrid_view(
        __name__,
        "hybrid_l2g",
        "the scene blurred outside the mask, with the masked object added in the last blocks",
        ["l2g"],
    )
)
