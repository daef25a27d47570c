"""Every kind of heat map of this package, registered by being imported: a new file of this folder gets its name here."""

from stages.heat_maps import clip_es, clip_seg, group_vit, imported
from stages.heat_maps.registry import HEAT_MAPS

__all__ = ["HEAT_MAPS", "clip_es", "clip_seg", "group_vit", "imported"]
