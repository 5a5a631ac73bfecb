"""Files that are no ONNX models are named, with the next step."""

import gzip
import io
import zipfile

import pytest

from models.errors import ContractError
from models.file_kind import kind_of
from models.inspect import inspect
from tests.models.builders import save


def zipped(name):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, b"x" * 300)
    return file.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 3\n"
FILES = [
    (LFS, "a pointer of Git LFS", "git lfs pull"),
    (b"<!DOCTYPE html><html><body>404</body></html>", "a web page", "download the file itself"),
    (b"\n  <HTML lang='en'><head></head></HTML>", "a web page", "download"),
    (gzip.compress(b"model"), "gzip", "gunzip"),
    (zipped("yolov8n/data.pkl"), "PyTorch weights", "torch.onnx.export"),
    (zipped("readme.md"), "a zip archive", "unpack it"),
    (b"\x80\x02}q\x00." + b"\0" * 90, "a pickle", "export it to ONNX"),
    (b"\x1c\0\0\0TFL3" + b"\0" * 90, "TensorFlow Lite", "tf2onnx"),
    (b"ftrt" + b"\0" * 90, "a TensorRT engine", "the ONNX file it was built from"),
    (b'<?xml version="1.0"?>\n<net name="x" version="11">', "an OpenVINO model", "use the ONNX"),
    (b"\x89HDF\r\n\x1a\n" + b"\0" * 90, "HDF5", "tf2onnx"),
    (b'{"modelTopology": {"node": []}}', "a TensorFlow.js model", "tf2onnx"),
    (b"name: my_model\nfamily: yolov8\n", "a text file", "a card that ends in .yaml"),
    ("größe und höhe, ümlaute\n".encode(), "a text file", "name the model file"),
    (b"\x40\0\0\0\0\0\0\0" + b'{"a":{"dtype":"F32"}}', "safetensors", "export"),
]


@pytest.mark.parametrize(("data", "kind", "advice"), FILES, ids=[kind for _, kind, _ in FILES])
def test_a_file_of_another_kind_is_named_with_the_next_step(tmp_path, data, kind, advice):
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(ContractError) as caught:
        inspect(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: no ONNX model (found {kind}")
    assert advice in text
    assert "\n" not in text


def test_a_truncated_model_is_not_taken_for_another_kind(tmp_path):
    path = save(tmp_path / "m.onnx", [1, 3, 64, 64], {"output0": (1, 6, 84)})
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ContractError, match="not an ONNX model, or a truncated one"):
        inspect(path)


def test_no_kind_is_guessed_from_nothing_or_noise():
    assert kind_of(b"") is None
    assert kind_of(bytes(range(200, 256)) * 4) is None


@pytest.mark.parametrize(
    ("shape", "output", "guess"),
    [
        ([1, 3, 48, 320], (1, 40, 97), "looks like a text recogniser"),
        ([1, 3, 224, 224], (1, 512), "read as embed, but input.scale is not in the file"),
        ([1, 3, 224, 224], (1, 7), "read as classify, but input.scale is not in the file"),
        ([1, 3, 224, 224], (1, 60), "can be read as classify .60 classes. or embed"),
        ([1, 3, 512, 512], (1, 19, 128, 128), "read as semantic, but input.scale is not"),
        ([1, 3, 512, 512], (1, 19, 9, 128), "looks like a segmentation or a map of features"),
    ],
)
def test_a_model_of_another_task_is_refused_with_a_guess(tmp_path, shape, output, guess):
    path = save(tmp_path / "m.onnx", shape, {"out": output})
    with pytest.raises(ContractError, match=guess):
        inspect(path)
