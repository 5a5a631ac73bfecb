"""Only regular files of a bounded size are opened as a model or a card."""

import os
import socket
from pathlib import Path

import pytest

from models import card, onnx_header, zoo
from models.errors import CardError, ContractError, ModelError
from models.files import open_file, user_path


def fifo(folder):
    os.mkfifo(folder / "x")
    return folder / "x"


def bound_socket(folder):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(folder / "x"))
    return folder / "x"


def folder(folder):
    return folder


def device(folder):
    return Path("/dev/zero")


def link_to_a_device(folder):
    (folder / "x").symlink_to("/dev/zero")
    return folder / "x"


def link_loop(folder):
    (folder / "x").symlink_to(folder / "x")
    return folder / "x"


def huge_file(folder):
    (folder / "x").touch()
    os.truncate(folder / "x", 5_000_000_000)
    return folder / "x"


KINDS = [fifo, bound_socket, folder, device, link_to_a_device, link_loop, huge_file]
READERS = {
    "model": (onnx_header.read, ContractError),
    "hash": (onnx_header.sha256_of, ContractError),
    "card": (card.load, CardError),
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("reader", READERS)
def test_a_path_that_is_no_regular_file_of_bounded_size_is_refused(tmp_path, kind, reader):
    read, error = READERS[reader]
    path = kind(tmp_path)
    with pytest.raises(error) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: the ")


@pytest.mark.parametrize("ending", [".onnx", ".yaml"])
@pytest.mark.parametrize("kind", KINDS[:2], ids=lambda kind: kind.__name__)
def test_a_pipe_or_socket_named_as_a_model_is_refused(tmp_path, kind, ending):
    path = kind(tmp_path).rename(tmp_path / f"m{ending}")
    with pytest.raises(ModelError, match=r"is not a regular file \(found a (named pipe|socket)\)"):
        zoo.resolve(str(path))


def test_a_card_whose_weights_are_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "m.onnx")
    (tmp_path / "m.yaml").write_text("name: m\nfamily: ssd\nweights: {file: m.onnx}\n")
    with pytest.raises(ContractError, match="found a named pipe"):
        zoo.resolve(str(tmp_path / "m.yaml"))


@pytest.mark.parametrize("name", ["a\0b.onnx", "\ud800.onnx", "x" * 5000 + ".onnx"])
def test_a_name_that_no_file_can_have_is_refused(name):
    with pytest.raises(ModelError):
        zoo.resolve(name)
    with pytest.raises(ModelError):
        zoo.resolve(name.removesuffix(".onnx") + ".yaml")


def test_weights_with_a_name_that_no_file_can_have_are_missing(tmp_path):
    for i, name in enumerate(["x" * 900, r"a\0b"]):
        path = tmp_path / f"{i}.yaml"
        path.write_text(f'name: m\nfamily: ssd\nweights: {{file: "{name}"}}\n')
        with pytest.raises(CardError, match=r"weights\.file does not exist"):
            zoo.resolve(str(path))


def test_an_unknown_home_folder_is_refused_with_the_path():
    with pytest.raises(CardError, match=r"~no_such_user_here/m\.onnx: the home folder is unknown"):
        user_path("~no_such_user_here/m.onnx")


def test_a_file_is_opened_up_to_its_size_limit(tmp_path):
    (tmp_path / "x").write_bytes(b"1234")
    with open_file(tmp_path / "x", "card", 4, CardError) as file:
        assert file.read() == b"1234"
    with pytest.raises(CardError, match=r"is too large \(found 4 bytes, at most 3\)"):
        open_file(tmp_path / "x", "card", 3, CardError)
