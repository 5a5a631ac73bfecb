"""The nodes of a model are counted before a runtime loads it; its weights are beside it."""

import itertools
import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models import onnx_header
from models.errors import ContractError
from models.inspect import inspect
from models.onnx_graph import MAX_CALL_DEPTH, MAX_GRAPH_DEPTH
from models.runtime import Runtime
from tests.models.builders import save

SHAPE = [1, 3, 64, 64]
OWN = [helper.make_opsetid("", 13), helper.make_opsetid("own", 1)]


def call(op, read="x", write="y", domain="own"):
    return helper.make_node(op, [read], [write], domain=domain)


def function(name, *ops, domain="own"):
    """A function of nodes in a row; operators with a capital N are of ONNX."""
    names = ["x", *(f"t{i}" for i in range(1, len(ops))), "y"]
    nodes = [
        call(op, *names[i : i + 2], domain="" if op[0] == "N" else domain)
        for i, op in enumerate(ops)
    ]
    return helper.make_function(domain, name, ["x"], ["y"], nodes, OWN)


def with_functions(path, *functions, first="f0"):
    """Write a detector with one more node, which calls the functions."""
    save(path, SHAPE, {"output0": (1, 11, 84)})
    model = onnx.load(path)
    model.graph.node.append(call(first, "images", "more"))
    model.functions.extend(functions)
    model.opset_import.append(OWN[1])
    path.write_bytes(model.SerializeToString())
    return path


def doubling(depth, last="Neg"):
    """Make functions that each call the next one twice: few bytes, 2**depth nodes."""
    names = [f"f{i}" for i in range(depth)]
    calls = [function(a, b, b) for a, b in itertools.pairwise(names)]
    return [*calls, function(names[-1], last)]


def test_functions_that_expand_to_billions_of_nodes_are_refused(tmp_path):
    for depth, found in [(31, r"[\d,]{13}"), (60, r"more than 10\*\*18")]:
        path = with_functions(tmp_path / "m.onnx", *doubling(depth))
        with pytest.raises(
            ContractError, match=rf"too large \(found {found} nodes with .*, at most 50,000\)"
        ):
            onnx_header.read(path)


def test_functions_that_expand_to_no_node_are_counted_by_their_calls(tmp_path):
    empty = helper.make_function("own", "f30", ["x"], ["x"], [], OWN)
    functions = [*doubling(31)[:-1], empty]
    with pytest.raises(ContractError, match="with its functions expanded"):
        onnx_header.read(with_functions(tmp_path / "m.onnx", *functions))


def test_functions_of_one_name_count_as_the_largest(tmp_path):
    small = function("f1", "Neg")
    path = with_functions(tmp_path / "m.onnx", small, *doubling(31), small)
    with pytest.raises(ContractError, match="with its functions expanded"):
        onnx_header.read(path)


def test_functions_called_from_a_branch_are_counted(tmp_path):
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE)
    branch = helper.make_graph([call("f1")], "branch", [], [value])
    node = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    outer = helper.make_function("own", "f0", ["x"], ["y"], [node], OWN)
    path = with_functions(tmp_path / "m.onnx", outer, *doubling(31)[1:])
    with pytest.raises(ContractError, match="with its functions expanded"):
        onnx_header.read(path)


@pytest.mark.parametrize("functions", [["f0"], ["f1", "f0"], ["f1", "f2", "f0"]])
def test_functions_that_call_themselves_are_refused(tmp_path, functions):
    made = [function(f"f{i}", "Neg", name) for i, name in enumerate(functions)]
    with pytest.raises(ContractError, match=r"its function f\d calls itself"):
        onnx_header.read(with_functions(tmp_path / "m.onnx", *made))


def test_functions_that_call_each_other_too_deep_are_refused(tmp_path):
    made = [function(f"f{i}", f"f{i + 1}") for i in range(5000)]
    with pytest.raises(ContractError, match=f"call each other more than {MAX_CALL_DEPTH} deep"):
        onnx_header.read(with_functions(tmp_path / "m.onnx", *made, function("f5000", "Neg")))


def test_functions_as_exporters_write_them_are_accepted_and_run(tmp_path):
    path = with_functions(tmp_path / "m.onnx", *doubling(8))
    assert onnx_header.read(path).ops == {"Identity", "f0"}
    (output,) = Runtime(inspect(path), "cpu").run({"images": np.zeros(SHAPE, np.float32)})
    assert output.shape == (1, 11, 84)


def nested(depth):
    """Write a node with nested graphs, as bytes: the onnx package cannot write this depth."""
    node = field(4, b"Neg")
    for _ in range(depth):
        node = field(4, b"If") + field(5, field(6, field(1, node)))
    return node


def field(number, data):
    """Write a field of a protobuf message."""
    size, length = b"", len(data)
    while length >= 0x80:
        size, length = size + bytes([length & 0x7F | 0x80]), length >> 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + data


def with_node(path, node, *tensors):
    save(path, SHAPE, {"output0": (1, 11, 84)})
    model = onnx.load(path)
    model.graph.initializer.extend(tensors)
    data = node if isinstance(node, bytes) else node.SerializeToString()
    path.write_bytes(field(7, model.graph.SerializeToString() + field(1, data)))
    return path


def test_graphs_nested_too_deep_are_refused(tmp_path):
    assert onnx_header.read(with_node(tmp_path / "m.onnx", nested(20))).ops == {"Identity", "If"}
    with pytest.raises(ContractError, match=f"nested more than {MAX_GRAPH_DEPTH} deep"):
        onnx_header.read(with_node(tmp_path / "m.onnx", nested(MAX_GRAPH_DEPTH + 1)))


def test_two_graphs_in_a_file_are_refused(tmp_path):
    path = save(tmp_path / "m.onnx", SHAPE, {"output0": (1, 11, 84)})
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(ContractError, match="two graphs"):
        onnx_header.read(path)


def test_more_fields_than_the_limit_are_refused(tmp_path, monkeypatch):
    path = save(tmp_path / "m.onnx", SHAPE, {"output0": (1, 11, 84)})
    monkeypatch.setattr(onnx_header.Reader.__init__, "__defaults__", (40,))
    with pytest.raises(ContractError, match="too many fields for a model"):
        onnx_header.read(path)


# --- weights in other files ---


def external(location, offset=None, length=None):
    tensor = TensorProto(name="w", data_type=1, dims=[2], data_location=TensorProto.EXTERNAL)
    pairs = {"location": location, "offset": offset, "length": length}
    for key, value in pairs.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    return tensor


def test_weights_beside_the_model_are_read(tmp_path):
    rows = np.arange(11 * 84, dtype=np.float32).reshape(1, 11, 84)
    path = save(tmp_path / "m.onnx", SHAPE, {"output0": rows})
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="w.bin")
    assert (tmp_path / "w.bin").stat().st_size
    (output,) = Runtime(inspect(path), "cpu").run({"images": np.zeros(SHAPE, np.float32)})
    np.testing.assert_array_equal(output, rows)


def test_weights_beside_a_symlink_to_the_model_are_read(tmp_path):
    path = save(tmp_path / "m.onnx", SHAPE, {"output0": np.ones((1, 11, 84))})
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="w.bin")
    (tmp_path / "view").mkdir()
    (tmp_path / "view" / "m.onnx").symlink_to("../m.onnx")
    (tmp_path / "view" / "w.bin").symlink_to("../w.bin")
    found = inspect(tmp_path / "view" / "m.onnx")
    assert found.size_bytes == sum((tmp_path / name).stat().st_size for name in ("m.onnx", "w.bin"))
    Runtime(found, "cpu")


@pytest.mark.parametrize(
    "location",
    ["/etc/hostname", "../w.bin", "a/../../w.bin", "link", "..", "", "/dev/zero", "circle"],
)
def test_weights_outside_the_models_folder_are_refused(tmp_path, location):
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(8))
    (folder / "link").symlink_to("../w.bin")
    (folder / "circle").symlink_to("circle")
    path = with_node(folder / "m.onnx", nested(1), external(location))
    with pytest.raises(ContractError) as caught:
        onnx_header.read(path)
    assert "weights are outside its folder" in str(caught.value) or "Too many levels" in str(
        caught.value
    )


def test_weights_in_every_part_of_a_model_are_checked(tmp_path):
    bad = external("/etc/hostname")
    constant = helper.make_node("Constant", [], ["y"], value=bad)
    info = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([constant], "g", [], [info])
    initialised = helper.make_graph([], "g", [], [info], [bad])
    sparse = onnx.SparseTensorProto(values=bad, indices=numpy_helper.from_array(np.zeros(2)))
    inside = helper.make_function("own", "f0", ["x"], ["y"], [constant], OWN)
    for node in (
        constant,
        helper.make_node("If", ["yes"], ["y"], then_branch=graph),
        helper.make_node("If", ["yes"], ["y"], then_branch=initialised),
        helper.make_node("Constant", [], ["y"], sparse_value=sparse),
    ):
        with pytest.raises(ContractError, match="weights are outside its folder"):
            onnx_header.read(with_node(tmp_path / "m.onnx", node))
    with pytest.raises(ContractError, match="weights are outside its folder"):
        onnx_header.read(with_functions(tmp_path / "m.onnx", inside))


def test_weights_that_are_missing_truncated_or_no_file_are_refused(tmp_path):
    (tmp_path / "w.bin").write_bytes(bytes(100))
    os.mkfifo(tmp_path / "pipe")
    for tensor, complaint in [
        (external("none.bin"), "none.bin: the weights file of m.onnx cannot be read: No such"),
        (external("pipe"), "is not a regular file .found a named pipe"),
        (external("w.bin", offset=96, length=8), "w.bin is truncated .found 100 bytes, expected 1"),
        (external("w.bin", offset="-4"), "external weights with a negative offset or length"),
        (
            external("w.bin", length="1e3"),
            "external weights with an offset or length that is no number",
        ),
    ]:
        with pytest.raises(ContractError, match=complaint):
            onnx_header.read(with_node(tmp_path / "m.onnx", nested(1), tensor))
    tensor = external("w.bin", offset=92, length=8)
    onnx_header.read(with_node(tmp_path / "m.onnx", nested(1), tensor))
