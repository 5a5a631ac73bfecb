"""Kinds of files that are taken for ONNX models, by their first bytes, and how to get a model."""

from __future__ import annotations

from typing import NamedTuple

HEAD_BYTES = 4096
"""Bytes at the start of a file that are looked at."""


class Kind(NamedTuple):
    """A kind of file that is no ONNX model."""

    name: str
    advice: str


_EXPORT = "export it to ONNX with the code that it was trained with"
_KINDS: tuple[tuple[int, bytes, Kind], ...] = (
    (
        0,
        b"version https://git-lfs",
        Kind("a pointer of Git LFS", "run `git lfs pull` in its repository, or download the file"),
    ),
    (0, b"\x1f\x8b", Kind("gzip", "unpack it: gunzip")),
    (0, b"7z\xbc\xaf", Kind("a 7z archive", "unpack it")),
    (0, b"\x80\x02", Kind("a pickle, as PyTorch wrote it before 1.6", _EXPORT)),
    (0, b"\x89HDF", Kind("HDF5, as Keras writes it", "convert it: python -m tf2onnx.convert")),
    (
        4,
        b"TFL3",
        Kind(
            "TensorFlow Lite",
            "convert it: python -m tf2onnx.convert --tflite FILE --output model.onnx",
        ),
    ),
    (
        0,
        b"ftrt",
        Kind("a TensorRT engine", "use the ONNX file it was built from, with device: tensorrt"),
    ),
    (0, b"7767517", Kind("an ncnn model", _EXPORT)),
    (0, b"\x7fELF", Kind("a program", "name the model file")),
    (0, b"\xff\xd8\xff", Kind("a JPEG image", "name the model file")),
    (0, b"\x89PNG", Kind("a PNG image", "name the model file")),
    (0, b"%PDF", Kind("a PDF document", "name the model file")),
)
"""Offset, bytes there, and the kind of file that they show."""


def kind_of(head: bytes) -> Kind | None:
    """Return the kind of a file by its first bytes; None: none that is known.

    Args:
        head: up to `HEAD_BYTES` bytes.
    """
    for offset, magic, kind in _KINDS:
        if head[offset : offset + len(magic)] == magic:
            return kind
    if head.startswith(b"PK\x03\x04"):
        if b"/data.pkl" in head or b"/version" in head or b".pkl" in head:
            return Kind("PyTorch weights (.pt)", f"{_EXPORT}: torch.onnx.export, or yolo export")
        return Kind("a zip archive", "unpack it, and name the model file in it")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return Kind("a web page", "download the file itself: the raw or download link of the page")
    if text.startswith(b"<?xml") and b"<net " in text:
        return Kind("an OpenVINO model", "use the ONNX file it was made from")
    if text.startswith(b"<?xml"):
        return Kind("an XML file", "name the model file")
    if text.startswith((b"{", b"[")) and b'"' in text:
        if b"modeltopology" in text or b"graph-model" in text:
            return Kind(
                "a TensorFlow.js model", "convert it: python -m tf2onnx.convert --tfjs FILE"
            )
        return Kind("a JSON file", "name the model file")
    if len(head) > 10 and head[8:10] == b'{"' and b"dtype" in head:
        return Kind("safetensors: weights without a graph", _EXPORT)
    if head and _is_text(head):
        return Kind("a text file", "name the model file, or a card that ends in .yaml")
    return None


def _is_text(head: bytes) -> bool:
    """Return whether bytes are readable text; a model has zero bytes soon."""
    if len(head) < 16 or b"\0" in head:
        return False
    try:
        text = head.decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # the end may cut a character in two
            return False
        text = head[: error.start].decode("utf-8")
    return all(character.isprintable() or character in "\t\r\n" for character in text)
