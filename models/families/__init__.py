"""Model families, each in its file: what they have in common is in `base.py`."""

from __future__ import annotations

import importlib
from typing import Any, cast

from models.families.base import Family

FAMILIES = {
    "ssd": "models.families.ssd:Ssd",
    "yolox": "models.families.yolox:Yolox",
    "yolov8": "models.families.yolov8:Yolov8",
    "yolov5": "models.families.yolov5:Yolov5",
    "detr": "models.families.detr:Detr",
    "end_to_end": "models.families.end_to_end:EndToEnd",
    "ssd_nms": "models.families.ssd_nms:SsdNms",
}
"""Name in a card -> "module:Class". A new family is one file and one line here."""


def load(name: str) -> type[Family[Any]]:
    """Import the family of a name, one of `FAMILIES`."""
    module, _, attribute = FAMILIES[name].partition(":")
    return cast(type[Family[Any]], getattr(importlib.import_module(module), attribute))
