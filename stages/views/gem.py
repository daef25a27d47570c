"""View gem: GEM (Bousselham et al., CVPR 2024) (docs/methods.md)."""

from stages.views.dense import dense_view
from stages.views.registry import VIEWS

VIEWS.add(
    dense_view(
        __name__, "gem", "dense CLIP: self-self attention of queries, keys and values, parallel to the last six blocks"
    )
)
