import json
import os
import pickle
import zipfile

import numpy as np
import pytest

from models.errors import TrainingError
from models.training import pickle_reader
from models.training.weights_file import read_weights
from tests.models.training.builders import state_dict, torch_dict


def equal(found, expected):
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].shape == value.shape
        assert np.array_equal(found[name], value), name


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_that_pytorch_saved_are_read(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    path = tmp_path / "w.pth"
    weights = state_dict()
    torch.save(torch_dict(weights), path, _use_new_zipfile_serialization=zipped)
    equal(read_weights(path), weights)


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
def test_weights_below_a_key_of_a_checkpoint_are_read(tmp_path, key):
    torch = pytest.importorskip("torch")
    path = tmp_path / "w.pt"
    weights = state_dict()
    torch.save({"epoch": 3, "loss": 0.5, "done": None, key: torch_dict(weights)}, path)
    equal(read_weights(path), weights)


@pytest.mark.parametrize("zipped", [True, False])
def test_views_of_shared_numbers_and_all_types_are_read(tmp_path, zipped):
    torch = pytest.importorskip("torch")
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    tensors = {
        "turned": base.t(),
        "part": base[1:3, ::2],
        "one": base[3, 3],
        "none": torch.zeros((0, 3)),
        "half": base.half(),
        "brain": base.bfloat16(),
        "whole": torch.tensor([-3, 2**40]),
        "yes": torch.tensor([True, False]),
        "trained": torch.nn.Parameter(base + 1),
    }
    path = tmp_path / "w.pt"
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    expected = {n: t.detach().float().numpy() for n, t in tensors.items()}
    expected |= {n: tensors[n].numpy() for n in ("whole", "yes")}
    equal(read_weights(path), expected)


def safetensors(header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_safetensors_are_read(tmp_path):
    numbers = np.arange(6, dtype=np.float32)
    header = {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "b": {"dtype": "BF16", "shape": [1], "data_offsets": [24, 26]},
        "c": {"dtype": "F16", "shape": [], "data_offsets": [26, 28]},
    }
    path = tmp_path / "w.safetensors"
    data = numbers.tobytes() + b"\xc0\x3f" + np.float16(0.5).tobytes()
    path.write_bytes(safetensors(header, data))
    found = read_weights(path)
    equal(
        found,
        {"a": numbers.reshape(2, 3), "b": np.float32([1.5]), "c": np.array(0.5, np.float32)},
    )
    assert found["c"].dtype == np.float32


def test_layers_in_safetensors_follow_each_other_by_number(tmp_path):
    entry = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    names = ["b.2.x", "b.10.x", "b.10.y", "c"]
    path = tmp_path / "w.safetensors"
    path.write_bytes(safetensors(dict.fromkeys(sorted(names), entry), b""))
    assert list(read_weights(path)) == names


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "ends early"),
        ((2**60).to_bytes(8, "little"), "a header of"),
        (safetensors(b"{", b""), "damaged header"),
        (safetensors({"a": 3}, b""), "damaged header"),
        (safetensors({"a": {"dtype": "F32"}}, b""), "damaged header"),
        (
            safetensors({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234"),
            "outside the file",
        ),
        (
            safetensors({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"1234"),
            "outside the file",
        ),
        (
            safetensors({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"1234"),
            "another amount",
        ),
        (
            safetensors({"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
            "the type X9",
        ),
    ],
)
def test_damaged_safetensors_are_refused(tmp_path, content, found):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(TrainingError, match=found):
        read_weights(path)


def text(value):
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def whole(value):
    return b"J" + value.to_bytes(4, "little", signed=True)


def row(*items):
    return b"(" + b"".join(items) + b"t"


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def tensor(shape=(2,), strides=(1,), offset=0, count=2, key="0", kind="FloatStorage"):
    """The operations by which PyTorch's pickles make a tensor."""
    stored = row(text("storage"), name("torch", kind), text(key), text("cpu"), whole(count)) + b"Q"
    numbers = [row(*map(whole, sides)) for sides in (shape, strides)]
    empty = name("collections", "OrderedDict") + b")R"
    call = row(stored, whole(offset), *numbers, b"\x89", empty)
    return name("torch._utils", "_rebuild_tensor_v2") + call + b"R"


def program(**items):
    """A pickle of a dictionary with values that are made by these operations."""
    return b"\x80\x02}" + b"".join(text(k) + v + b"s" for k, v in items.items()) + b"."


def archive(path, pickled, data=b"12345678", way=zipfile.ZIP_STORED, **more):
    """PyTorch's archive with this pickle, and these numbers for its storage 0."""
    with zipfile.ZipFile(path, "w", way) as file:
        file.writestr("w/data.pkl", pickled)
        file.writestr("w/data/0", data)
        for entry, content in more.items():
            file.writestr(f"w/{entry}", content)
    return path


def legacy(path, pickled, keys=("0",), count=2, data=b"12345678"):
    """The format before 1.6 with this pickle."""
    first = [pickle.dumps(v, 2) for v in (0x1950A86A20F9469CFC6C, 1001, {})]
    content = [*first, pickled, pickle.dumps(list(keys), 2), count.to_bytes(8, "little"), data]
    path.write_bytes(b"".join(content))
    return path


@pytest.mark.parametrize("write", [archive, legacy])
def test_hand_made_weights_are_read_without_pytorch(tmp_path, write):
    data = np.float32([1, 2]).tobytes()
    found = read_weights(write(tmp_path / "w.pt", program(a=tensor()), data=data))
    equal(found, {"a": np.float32([1, 2])})


@pytest.mark.parametrize("write", [archive, legacy])
@pytest.mark.parametrize(
    ("value", "found"),
    [
        (name("os", "system") + row(text("touch hacked")) + b"R", "os.system"),
        (name("builtins", "eval") + row(text("1")) + b"R", "builtins.eval"),
        (name("torch.nn.modules.conv", "Conv2d") + b")\x81", "Conv2d: more than a state dict"),
        (text("posix") + text("system") + b"\x93" + row(text("ls")) + b"R", "posix.system"),
        (name("torch._utils", "_rebuild_tensor_v2") + b")\x81", "operation NEWOBJ"),
        (name("collections", "OrderedDict") + row(b"N") + b"R", "a call of collections"),
        (text("a") + b")R", "a call of something else"),
        (b"(itext\nname\n", "operation INST"),
        (tensor(shape=(3,)), "outside its data"),
        (tensor(offset=1), "outside its data"),
        (tensor(strides=(-1,)), "negative size"),
        (tensor(shape=(2, 1)), "negative size"),
        (tensor(shape=(2**30, 2**30), strides=(0, 0)), "larger than their data"),
        (tensor(kind="StrangeStorage"), "the type StrangeStorage"),
        (tensor(key="7"), "no data for a tensor|belong to no tensor"),
        (whole(3), "a dictionary without tensors"),
        (b"(", "a dictionary without tensors"),
        (b"0", "operation POP"),
        (b"h\x05", "damaged pickle"),
        (b"t", "damaged pickle"),
        (b"\xff", "damaged pickle"),
    ],
)
def test_pickles_of_anything_but_weights_are_refused(tmp_path, write, value, found):
    path = write(tmp_path / "w.pt", program(a=value))
    with pytest.raises(TrainingError, match=found) as error:
        read_weights(path)
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == ["w.pt"]


def test_keys_that_take_years_to_hash_are_refused(tmp_path):
    nested = b")q\x00" + b"".join(b"h\x00h\x00\x86q\x00" for _ in range(60))
    path = archive(tmp_path / "w.pt", b"\x80\x02}" + nested + b"Ns.")
    with pytest.raises(TrainingError, match="a key of the type tuple"):
        read_weights(path)


@pytest.mark.parametrize("end", range(0, 400, 7))
def test_a_file_that_ends_early_is_refused(tmp_path, end):
    path = legacy(tmp_path / "w.pt", program(a=tensor()))
    content = path.read_bytes()
    path.write_bytes(content[: min(end, len(content) - 1)])
    with pytest.raises(TrainingError, match="cannot be read"):
        read_weights(path)


def test_more_operations_than_the_limit_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pickle_reader, "MAX_ITEMS", 10)
    with pytest.raises(TrainingError, match="more than 10 operations"):
        read_weights(archive(tmp_path / "w.pt", program(a=tensor())))


@pytest.mark.parametrize(
    ("write", "found"),
    [
        (lambda p: archive(p, program(a=tensor()), way=zipfile.ZIP_DEFLATED), "compressed"),
        (lambda p: archive(p, program(a=tensor()), byteorder="big"), "another byte order"),
        (lambda p: archive(p, program(a=tensor()), data=b"123"), "broken length"),
        (lambda p: archive(p, program(a=tensor()), data=b"1234"), "outside its data"),
        (lambda p: legacy(p, program(a=tensor()), count=3), "another amount"),
        (lambda p: legacy(p, program(a=tensor()), data=b"1234"), "ends early"),
        (lambda p: p.write_bytes(b"\x89PNG....") and p, "neither a pickle"),
        (lambda p: p.write_bytes(pickle.dumps(3)) and p, "something else than weights"),
        (lambda p: p.write_bytes(b"PK\x03\x04....") and p, "not a zip file"),
    ],
)
def test_other_files_are_refused_with_what_was_found(tmp_path, write, found):
    path = tmp_path / "w.pt"
    write(path)
    with pytest.raises(TrainingError, match=found):
        read_weights(path)


def test_a_zip_archive_of_other_things_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as file:
        file.writestr("readme.txt", "text")
    with pytest.raises(TrainingError, match="without weights"):
        read_weights(tmp_path / "w.pt")
    with pytest.raises(TrainingError, match="No such file"):
        read_weights(tmp_path / "none.pt")
