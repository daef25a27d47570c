"""View clear_clip: ClearCLIP (Lan et al., ECCV 2024) (docs/methods.md)."""

from stages.views.dense import dense_view
from stages.views.registry import VIEWS

VIEWS.add(
    dense_view(__name__, "clear_clip", "dense CLIP: patches attend to like queries, no residual and no perceptron")
)
