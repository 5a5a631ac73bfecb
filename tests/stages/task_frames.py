"""Frames with all that models of any task give."""

import msgspec
import numpy as np

from models.boxes.masks import rle_of, text_of
from pipeline.frame import Frame
from pipeline.testing import context
from stages.details import (
    Attribute,
    FrameLabel,
    SemanticLabels,
    Skeleton,
    put_attributes,
    put_masks,
)
from stages.detections import Labels

GREY = 100
SIZE = (240, 320)
BOX = (40, 60, 160, 200)
RED = Attribute("red", 4, 0.93, 5)
BEACH = FrameLabel("beach", 7, 0.81)
EDGES = ((0, 1),)


def context_of_tasks(**fields):
    """Return a context with the offers of models of all tasks."""
    return context(
        streams=("demo",),
        labels=Labels(("person", "car")),
        skeleton=Skeleton(("head", "foot"), EDGES),
        classes=SemanticLabels(("background", "grass", "road")),
        **fields,
    )


def plain_frame(boxes=(BOX,), seq=0, size=SIZE, time_s=None):
    """Return a grey frame with objects, whose ids count from 0."""
    count = len(boxes)
    return Frame.of(
        "demo",
        seq,
        seq / 10 if time_s is None else time_s,
        image=np.full((*size, 3), GREY, np.uint8),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        scores=np.full(count, 0.9, np.float32),
        classes=np.zeros(count, np.int32),
        ids=np.arange(count),
        rows=np.arange(count, dtype=np.int32),
    )


def mask_of_rows(top, bottom, left, right, size=SIZE):
    """Return the text of a mask that is a rectangle."""
    mask = np.zeros(size, np.uint8)
    mask[top:bottom, left:right] = 1
    return text_of(rle_of(mask).counts).encode()


def task_frame(seq=0):
    """Return a frame whose one object has a mask, keypoints and attributes, and whose image has
    labels and a semantic map.

    The mask is the upper half of the box, the skeleton a line down the middle of its lower half;
    grass covers the right edge of the image.
    """
    frame = plain_frame(seq=seq)
    put_masks(frame, [mask_of_rows(60, 130, 40, 160)])
    frame.put("keypoints", np.array([[[100, 140, 0.9], [100, 190, 0.8]]], np.float32))
    put_attributes(frame, "colour", [RED])
    frame.put("frame_labels", np.frombuffer(msgspec.json.encode([BEACH]), np.uint8))
    classes = np.zeros((24, 32), np.uint8)
    classes[:, 28:] = 1
    frame.put("semantic_map", classes)
    return frame


def rotated_frame(seq=0):
    """Return a frame whose one object has a rotated box, a square on its corner."""
    frame = plain_frame(seq=seq)
    frame.put("rotated", np.array([[100, 130, 70, 70, np.pi / 4]], np.float32))
    return frame
