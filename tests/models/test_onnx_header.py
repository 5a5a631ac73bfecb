"""The header of a model file is read without a runtime."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from models import onnx_header
from models.card import CARDS
from models.errors import ContractError
from tests.models.builders import save

EMBEDDED = CARDS.parent / "weights" / "ssdlite_mobilenet_v2.onnx"


def test_the_header_of_the_embedded_model_is_that_of_the_onnx_package():
    found = onnx_header.read(EMBEDDED)
    graph = onnx.load(EMBEDDED).graph
    assert [t.name for t in found.inputs] == [i.name for i in graph.input]
    assert [t.name for t in found.outputs] == [o.name for o in graph.output]
    assert found.ops == {node.op_type for node in graph.node}
    assert found.first_ops == {"Transpose"}
    assert str(found) == (
        "image uint8[1,300,300,3] -> boxes float32[1,1917,4], scores float32[1,1917,80]"
    )


def test_open_dimensions_and_metadata_are_read(tmp_path):
    path = save(
        tmp_path / "m.onnx",
        ["batch", 3, "height", 640],
        {"output0": ("batch", 84, "anchors")},
        metadata={"stride": "32", "names": "{0: 'b\u00e4r'}"},
        ops=["Softmax"],
    )
    found = onnx_header.read(path)
    assert found.inputs[0].shape == (None, 3, None, 640)
    assert found.outputs[0].shape == (None, 84, None)
    assert found.metadata == {"stride": "32", "names": "{0: 'b\u00e4r'}"}
    assert found.ops == {"Identity", "Softmax"}


def test_weights_that_an_old_file_lists_as_inputs_are_left_out(tmp_path):
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "old",
        [info("w", TensorProto.FLOAT, [1]), info("x", TensorProto.FLOAT, [1])],
        [info("y", TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(np.ones(1, "f4"), "w")],
    )
    onnx.save(helper.make_model(graph), tmp_path / "old.onnx")
    assert [t.name for t in onnx_header.read(tmp_path / "old.onnx").inputs] == ["x"]


@pytest.mark.parametrize("kept", [0, 1, 100, 5000, 1_000_000, -1])
def test_a_truncated_file_is_refused(tmp_path, kept):
    path = tmp_path / "cut.onnx"
    path.write_bytes(EMBEDDED.read_bytes()[:kept])
    with pytest.raises(ContractError, match="not an ONNX model, or a truncated one"):
        onnx_header.read(path)


@pytest.mark.parametrize(
    "data",
    [b"<!DOCTYPE html><html>", b"\x89PNG\r\n\x1a\n" * 9, b"version https://git-lfs", b"\xff" * 64],
    ids=["a web page", "an image", "a Git LFS pointer", "noise"],
)
def test_a_file_of_another_format_is_refused(tmp_path, data):
    (tmp_path / "other.onnx").write_bytes(data)
    with pytest.raises(ContractError, match=r"no ONNX model|not an ONNX model"):
        onnx_header.read(tmp_path / "other.onnx")


def test_a_missing_file_and_a_folder_are_refused_with_their_path(tmp_path):
    with pytest.raises(ContractError, match=r"none\.onnx: .*No such file"):
        onnx_header.read(tmp_path / "none.onnx")
    with pytest.raises(ContractError, match="Is a directory"):
        onnx_header.read(tmp_path)


# --- compared with the onnx package ---

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
DIMENSIONS = st.one_of(st.integers(-2, 1 << 40), NAMES, st.none())
SHAPES = st.none() | st.lists(DIMENSIONS, max_size=5)
DTYPES = st.sampled_from([*onnx_header.DTYPES, TensorProto.COMPLEX64])
TENSORS = st.lists(st.tuples(DTYPES, SHAPES), min_size=1, max_size=4)
OPS = st.sampled_from(["Add", "Exp", "Softmax", "Own"])


@st.composite
def models(draw):
    """Draw a model with inputs, outputs, weights, nodes and metadata."""
    inputs, outputs = draw(TENSORS), draw(TENSORS)
    names = draw(st.lists(NAMES, min_size=len(inputs) + len(outputs), max_size=12, unique=True))
    infos = [
        helper.make_tensor_value_info(name, dtype, shape)
        for name, (dtype, shape) in zip(names, inputs + outputs, strict=False)
    ]
    # Weights under the names of inputs, as in old files, and under names of their own.
    weights = draw(st.lists(st.sampled_from(names[1 : len(inputs)] + names[len(infos) :] or ["w"])))
    nodes = [
        helper.make_node(op, reads, [f"value{i}"], domain=draw(st.sampled_from(["", "own"])))
        for i, (op, reads) in enumerate(
            draw(st.lists(st.tuples(OPS, st.lists(st.sampled_from(names), max_size=3)), max_size=6))
        )
    ]
    graph = helper.make_graph(
        nodes,
        draw(st.text(max_size=5)),
        infos[: len(inputs)],
        infos[len(inputs) :],
        [numpy_helper.from_array(np.ones(3, "f4"), name) for name in set(weights)],
        doc_string=draw(st.none() | st.text(max_size=5)),
    )
    model = helper.make_model(graph, producer_name=draw(st.text(max_size=5)))
    helper.set_model_props(model, draw(st.dictionaries(st.text(max_size=9), st.text(max_size=300))))
    return model


def tensors_of(infos):
    """Describe value infos of the onnx package as (name, dtype, shape)."""
    found = []
    for info in infos:
        tensor = info.type.tensor_type
        shape = None
        if tensor.HasField("shape"):
            shape = tuple(
                side.dim_value if side.HasField("dim_value") and side.dim_value > 0 else None
                for side in tensor.shape.dim
            )
        dtype = onnx_header.DTYPES.get(tensor.elem_type, "unknown")
        found.append((info.name, dtype, shape))
    return found


@settings(max_examples=150, deadline=None)
@given(model=models())
def test_any_header_is_that_of_the_onnx_package(tmp_path_factory, model):
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    path.write_bytes(model.SerializeToString())
    found, graph = onnx_header.read(path), onnx.load(path).graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [info for info in graph.input if info.name not in weights]

    assert [(t.name, t.dtype, t.shape) for t in found.inputs] == tensors_of(inputs)
    assert [(t.name, t.dtype, t.shape) for t in found.outputs] == tensors_of(graph.output)
    assert found.metadata == {entry.key: entry.value for entry in model.metadata_props}
    assert found.ops == {node.op_type for node in graph.node}
    first = {node.op_type for node in graph.node if inputs[0].name in node.input}
    assert found.first_ops == first
    assert found.size_bytes == path.stat().st_size


def test_names_of_dtypes_are_those_of_the_onnx_package():
    other_names = {"float": "float32", "double": "float64"}
    for number, name in onnx_header.DTYPES.items():
        full = TensorProto.DataType.Name(number).lower()
        assert other_names.get(full, full) == name
