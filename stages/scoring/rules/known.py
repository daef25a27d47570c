"""Every rule of this package, registered by being imported: a new file of this folder gets its name here."""

from stages.scoring.rules import cropping, global_, global_local
from stages.scoring.rules.registry import RULES

__all__ = ["RULES", "cropping", "global_", "global_local"]
