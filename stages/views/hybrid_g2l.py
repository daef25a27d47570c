"""View hybrid_g2l: the masked object, to which its blurred scene is added in CLIP's last blocks (HybridGL)."""

from stages.views.registry import VIEWS
from stages.views.streams import hybrid_view

VIEWS.add(
    hybrid_view(
        __name__,
        "hybrid_g2l",
        "the masked object on a flat colour, with the blurred scene added in the last blocks",
        ["g2l"],
    )
)
