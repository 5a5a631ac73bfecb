"""Training: from a backbone and labelled images to a model that runs.

Read `method.py` first, then a method in `methods/`, then `trainer.py`, which calls it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NamedTuple

from models.errors import TrainingError
from models.text import close_match

if TYPE_CHECKING:
    from models.training.method import Method


class Entry(NamedTuple):
    """A method in the table."""

    location: str
    """module:Class."""
    help: str


METHODS = {
    "codes": Entry("models.training.methods.codes:Codes", "CNN codes and a linear classifier"),
    "adapt": Entry(
        "models.training.methods.adapt:Adapt",
        "two new layers trained on patches of many sizes, whose scores map where objects are",
    ),
    "finetune": Entry(
        "models.training.methods.finetune:Finetune",
        "a new last layer, and the upper blocks of the backbone trained along",
    ),
    "localize": Entry(
        "models.training.methods.localize:Localize",
        "one class and one box, of images with one main object",
    ),
    "semantic": Entry("models.training.methods.semantic:Semantic", "a class for each pixel"),
    "rcnn": Entry(
        "models.training.methods.rcnn:Rcnn",
        "selective search, and linear classifiers and box regressors on CNN codes of its regions",
    ),
    "fast_rcnn": Entry(
        "models.training.methods.fast_rcnn:FastRcnn",
        "selective search, and regions of one feature map of the image",
    ),
    "ssd": Entry(
        "models.training.methods.ssd:Ssd",
        "default boxes on several maps, with hard negatives (SSD)",
    ),
    "yolo": Entry(
        "models.training.methods.yolo:Yolo",
        "one pass on a grid without default boxes, objectness and box together (YOLOX)",
    ),
    "faster_rcnn": Entry(
        "models.training.methods.faster_rcnn:FasterRcnn",
        "proposals of a network on the map, each classified and its box corrected (Faster R-CNN)",
    ),
    "masks": Entry(
        "models.training.methods.masks:Masks",
        "the same, with a mask of each object (Mask R-CNN)",
    ),
}
"""Name -> class, imported when it is needed. A new method is one file and one line here."""


def load(name: str) -> type[Method]:
    """Import the class of a method.

    Args:
        name: a name of `METHODS`, or module:Class of a method of the user's own.

    Raises:
        TrainingError: there is no such method, or it needs a package that is not installed.
    """
    location = METHODS[name].location if name in METHODS else name
    module, colon, cls = location.partition(":")
    if not colon:
        close = close_match(name, METHODS)
        advice = f"did you mean {close!r}?" if close else f"known: {', '.join(METHODS)}"
        raise TrainingError(f"--method: unknown (found {name!r}); {advice}")
    try:
        found: type[Method] = getattr(importlib.import_module(module), cls)
    except ImportError as error:
        if name not in METHODS and error.name == module:
            raise TrainingError(
                f"--method {name}: there is no module {module!r} in the working directory or "
                "among the installed packages; check its name"
            ) from None
        raise TrainingError(
            f"--method {name}: a package cannot be imported ({error}); run `make train`"
        ) from None
    except AttributeError:
        raise TrainingError(
            f"--method {name}: the module {module!r} has no {cls!r}; check its name"
        ) from None
    return found
