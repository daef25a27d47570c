"""Every view of this package, registered by being imported: a new file of this folder gets its name here."""

from stages.views import blur, global_, hybrid, hybrid_g2l, hybrid_l2g, local, red_circle
from stages.views.registry import VIEWS

__all__ = ["VIEWS", "blur", "global_", "hybrid", "hybrid_g2l", "hybrid_l2g", "local", "red_circle"]
