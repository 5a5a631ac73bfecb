"""The header of a model file is read without a runtime."""

import onnx
import pytest
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
        [numpy_helper.from_array(onnx.numpy_helper.np.ones(1, "f4"), "w")],
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
    with pytest.raises(ContractError, match="not an ONNX model"):
        onnx_header.read(tmp_path / "other.onnx")


def test_a_missing_file_and_a_folder_are_refused_with_their_path(tmp_path):
    with pytest.raises(ContractError, match=r"none\.onnx: .*No such file"):
        onnx_header.read(tmp_path / "none.onnx")
    with pytest.raises(ContractError, match="Is a directory"):
        onnx_header.read(tmp_path)
