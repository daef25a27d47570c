"""View hybrid: the sum of the views hybrid_g2l and hybrid_l2g, to the bit (HybridGL)."""

from stages.views.registry import VIEWS
from stages.views.streams import hybrid_view

VIEWS.add(
    hybrid_view(
        __name__,
        "hybrid",
        "hybrid_g2l and hybrid_l2g, added",
        ["g2l", "l2g"],
    )
)
