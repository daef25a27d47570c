"""View sclip: SCLIP (Wang, Mei and Yuille, ECCV 2024) (docs/methods.md)."""

from stages.views.dense import dense_view
from stages.views.registry import VIEWS

VIEWS.add(
    dense_view(
        __name__, "sclip", "dense CLIP: patches attend to like queries and like keys, residual and perceptron kept"
    )
)
