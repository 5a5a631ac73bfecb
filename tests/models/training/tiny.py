"""A tiny backbone, and images of coloured shapes with their boxes, masks and classes."""

from pathlib import Path

import cv2
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from models.datasets.base import LabelledImage, TrueObject
from models.training.backbone import Backbone
from models.training.method import Job

SIDE = 64
COLOURS = {"red": (40, 40, 220), "green": (40, 200, 40), "blue": (220, 60, 40)}
LABELS = tuple(COLOURS)


def tiny_backbone(channels=(8, 16, 24, 32, 32)):
    """Five convolutions of stride 2 with ReLU6, random but fixed weights."""
    rng = np.random.default_rng(0)
    nodes, weights, name, before = [], [], "images", 3
    weights.append(numpy_helper.from_array(np.array(127.5, np.float32), "half"))
    nodes += [
        helper.make_node("Sub", [name, "half"], ["centred"]),
        helper.make_node("Div", ["centred", "half"], ["scaled"]),
    ]
    name = "scaled"
    for bound, value in (("zero", 0.0), ("six", 6.0)):
        weights.append(numpy_helper.from_array(np.array(value, np.float32), bound))
    for number, count in enumerate(channels, 1):
        kernel = rng.normal(0, (2 / (9 * before)) ** 0.5, (count, before, 3, 3))
        weights.append(numpy_helper.from_array(kernel.astype(np.float32), f"w{number}"))
        nodes += [
            helper.make_node(
                "Conv", [name, f"w{number}"], [f"c{number}"], f"conv{number}",
                strides=[2, 2], pads=[1, 1, 1, 1],
            ),
            helper.make_node("Clip", [f"c{number}", "zero", "six"], [f"r{number}"]),
        ]  # fmt: skip
        name, before = f"r{number}", count
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", before, None, None])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return Backbone("tiny", "tests", "Apache-2.0", "nothing", SIDE, model)


def shapes(folder: Path, count: int, seed: int = 0, objects: int = 1) -> list[LabelledImage]:
    """Images of squares in noise; the class of an image is the colour of its first square."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number in range(count):
        pixels = rng.integers(90, 150, (SIDE + 16, SIDE, 3), np.uint8)
        own = []
        for place in range(objects):
            kind = (number + place) % len(LABELS)
            side = int(rng.integers(20, 32))
            x = int(rng.integers(0, SIDE - side))
            y = int(rng.integers(0, SIDE + 16 - side))
            cv2.rectangle(pixels, (x, y), (x + side - 1, y + side - 1), COLOURS[LABELS[kind]], -1)
            own.append(TrueObject(kind, (x, y, x + side, y + side)))
        path = folder / f"{seed}-{number:03}.png"
        cv2.imwrite(str(path), pixels)
        size = (SIDE, SIDE + 16)
        found.append(LabelledImage(path, path.name, size, tuple(own), (own[0].number,)))
    return found


def job(folder: Path, settings, train, val, **more):
    """A job on the tiny backbone."""
    (folder / "run").mkdir(parents=True, exist_ok=True)
    values = {
        "backbone": tiny_backbone(),
        "labels": LABELS,
        "train": train,
        "val": val,
        "settings": settings,
        "seed": 0,
        "folder": folder / "run",
        "cache": folder / "cache",
    }
    return Job(**(values | more))
