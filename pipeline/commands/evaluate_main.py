"""Classes and boxes of the main objects of images, of a model that gives one per image."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from models.datasets.base import DataSet
from models.evaluation.localization import NONE, localization_figures
from pipeline.commands.evaluate_boxes import Classes, processed_images
from pipeline.commands.evaluation import Measured
from stages.sinks.score import Scored


def with_main_objects(
    measured: Measured, data: DataSet, frames: Sequence[Scored], classes: Classes
) -> Measured:
    """Add the figures of the main objects to those of all boxes.

    Args:
        measured: the figures of all boxes.
        data: the images that have a main object, with that object alone.
        frames: what was found in all images.
        classes: classes that are measured.

    Raises:
        EvaluationError: an array is wrong.
    """
    truth, true_boxes, numbers, boxes = [], [], [], []
    named = {frame.file for frame in frames}
    known = tuple(image for image in data.images if image.name in named and image.objects)
    processed, _ = processed_images(msgspec.structs.replace(data, images=known), frames)
    for image, frame in processed:
        [item] = image.objects
        number = int(classes.of_data[item.number])
        if number < 0:
            continue
        truth.append(number)
        true_boxes.append(item.box)
        best = int(np.argmax(frame.scores)) if frame.scores else None
        numbers.append(NONE if best is None else int(classes.of_model[frame.classes[best]]))
        boxes.append((0.0, 0.0, 0.0, 0.0) if best is None else tuple(frame.boxes[best]))
    figures = localization_figures(
        np.array(truth, np.intp),
        np.array(true_boxes, np.float64).reshape(-1, 4),
        np.array(numbers, np.intp),
        np.array(boxes, np.float64).reshape(-1, 4),
    )
    evaluation = msgspec.structs.replace(measured.evaluation, localization=figures)
    return measured._replace(evaluation=evaluation)
