"""Reads graph models of TensorFlow.js and writes ONNX: the common part of the converters."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

Node = dict[str, Any]
"""Node of a TensorFlow graph: op, name, input, attr."""


@dataclass
class GraphWriter:
    """A TensorFlow graph, and the ONNX graph that is made of it."""

    ops: dict[str, Node]
    """Name -> node of the TensorFlow graph."""
    consts: dict[str, NDArray[Any]]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    sides: dict[str, int] = field(default_factory=dict)
    """ONNX name of a value -> height and width of its maps in pixels."""

    def node(self, kind: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Write a node with one output, and return the output's name."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def const(self, name: str, value: NDArray[Any]) -> str:
        """Write a constant, and return its name."""
        from onnx import numpy_helper

        self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def model(
        self, name: str, side_px: int, outputs: Mapping[str, Sequence[int]], producer: str
    ) -> onnx.ModelProto:
        """Return the ONNX model of what was written, checked.

        Args:
            name: name of the graph.
            side_px: height and width of the input `image`, uint8 NHWC.
            outputs: name -> shape of a float32 output.
            producer: script that made the file, as the file holds it.
        """
        import onnx
        from onnx import TensorProto, helper

        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, side_px, side_px, 3])],
            [
                helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
                for output, shape in outputs.items()
            ],
            self.initializers,
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", 13)],
            ir_version=8,
            producer_name=f"eyeline {producer}",
        )
        onnx.checker.check_model(model, full_check=True)
        return model


def load(path: Path) -> tuple[dict[str, Node], dict[str, NDArray[Any]]]:
    """Read nodes and constants of a graph model.

    Args:
        path: its JSON file; the files of its weights lie beside it.
    """
    model = json.loads(path.read_text())
    consts: dict[str, NDArray[Any]] = {}
    for group in model["weightsManifest"]:
        data = b"".join((path.parent / name).read_bytes() for name in group["paths"])
        offset = 0
        for entry in group["weights"]:
            dtype = entry.get("quantization", entry)["dtype"]
            array = np.frombuffer(data, dtype, int(np.prod(entry["shape"])), offset)
            offset += array.nbytes
            consts[entry["name"]] = array.reshape(entry["shape"])
        assert offset == len(data)
    return {node["name"]: node for node in model["modelTopology"]["node"]}, consts


def run(description: str | None, folder: str, convert: Callable[[Path], onnx.ModelProto]) -> None:
    """Convert the folder given on the command line.

    Args:
        description: text of --help.
        folder: what the folder is, for --help.
        convert: makes the model from the folder.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help=folder)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    args.output.write_bytes(convert(args.folder).SerializeToString(deterministic=True))
