"""A model is found by name, card or file, and refused if its weights are not the right ones."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from models import families, zoo
from models.errors import CardError, ContractError, NothingToCompare
from models.inspect import inspect
from models.transform import fit
from tests.models.builders import save, yolox_layers


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A separate cache folder, and no mirror."""
    monkeypatch.delenv("EYELINE_MIRROR", raising=False)
    monkeypatch.setenv("EYELINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def served(tmp_path):
    """A model file, and its url."""
    folder = tmp_path / "served"
    folder.mkdir()
    path = save(
        folder / "far.onnx", [1, 3, 416, 416], {"output": (1, 3549, 85)}, layers=yolox_layers()
    )
    return path, path.as_uri()


def write_card(path, weights, family="yolox"):
    path.write_text(f"name: {path.stem}\nfamily: {family}\nweights: {weights}\n")
    return path


OTHER = "0f" * 32


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_embedded_model_is_found_by_name():
    found = zoo.resolve("ssdlite_mobilenet_v2")
    assert (found.name, found.family, found.licence) == (
        "ssdlite_mobilenet_v2",
        "ssd",
        "Apache-2.0",
    )
    assert (found.input.size, found.input.dtype, found.input.colour) == ((300, 300), "uint8", "bgr")
    assert (len(found.labels), found.labels[0]) == (80, "person")


def test_finding_the_embedded_model_loads_no_runtime():
    code = (
        "import sys; from models import zoo; zoo.resolve('ssdlite_mobilenet_v2'); "
        "assert 'onnxruntime' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_card_that_ships_can_be_read():
    known = {entry.card.name: entry for entry in zoo.known()}
    assert {"ssdlite_mobilenet_v2", "centernet_mobilenet_v3", "yolox_nano"} <= set(known)
    assert all(entry.path.stem == name for name, entry in known.items())
    assert {e.card.weights.licence for e in known.values()} == {"Apache-2.0", "MIT"}
    assert known["ssdlite_mobilenet_v2"].weights is not None
    assert known["yolox_nano"].weights is None


def test_a_file_with_a_card_that_ships_is_recognised_by_its_content(tmp_path):
    copy = tmp_path / "renamed.onnx"
    copy.write_bytes(zoo.verify("ssdlite_mobilenet_v2").read_bytes())
    found = zoo.resolve(str(copy))
    assert (found.name, found.path) == ("ssdlite_mobilenet_v2", str(copy))
    assert found.input.colour == "bgr"  # not in the file itself


def test_a_file_without_a_card_is_resolved(served):
    assert zoo.resolve(str(served[0])).family == "yolox"


def test_a_card_outside_the_package_is_resolved(tmp_path, served):
    path = write_card(tmp_path / "mine.yaml", "{file: served/far.onnx}")
    assert zoo.resolve(str(path)).name == "mine"


def test_an_unknown_name_is_refused_with_a_similar_one():
    with pytest.raises(CardError, match=r"'yolox_nan'.*did you mean yolox_nano\?"):
        zoo.resolve("yolox_nan")


def test_a_missing_file_is_refused_with_its_path(tmp_path):
    with pytest.raises(ContractError, match=r"none\.onnx: .*No such file"):
        zoo.resolve(str(tmp_path / "none.onnx"))
    path = write_card(tmp_path / "mine.yaml", "{file: gone.onnx}")
    with pytest.raises(CardError, match=r"weights\.file does not exist \(found no .*gone\.onnx"):
        zoo.resolve(str(path))


def test_weights_not_downloaded_yet_are_refused_with_the_command():
    with pytest.raises(CardError, match=r"not downloaded yet; .* run\.py models fetch yolox_nano"):
        zoo.resolve("yolox_nano")


def test_weights_with_another_hash_are_refused(tmp_path, served):
    path = write_card(tmp_path / "mine.yaml", f"{{file: served/far.onnx, sha256: {OTHER}}}")
    with pytest.raises(CardError, match=rf"{sha256(served[0])}, card mine states {OTHER}\)"):
        zoo.resolve(str(path))


def test_fetch_stores_the_file_and_resolve_uses_it(tmp_path, served, cache):
    file, url = served
    path = write_card(tmp_path / "mine.yaml", f"{{url: '{url}', sha256: {sha256(file)}}}")
    steps = []
    got = zoo.fetch(str(path), lambda done, total: steps.append((done, total)))
    assert got.read_bytes() == file.read_bytes()
    assert cache in got.parents
    assert steps[-1] == (file.stat().st_size, file.stat().st_size)
    assert zoo.resolve(str(path)).path == str(got)
    file.unlink()
    assert zoo.fetch(str(path)) == got  # not downloaded again


def test_fetch_discards_a_file_with_another_hash(tmp_path, served, cache):
    path = write_card(tmp_path / "mine.yaml", f"{{url: '{served[1]}', sha256: {OTHER}}}")
    with pytest.raises(CardError, match="; file discarded, correct the card or its url"):
        zoo.fetch(str(path))
    assert not [p for p in cache.rglob("*") if p.is_file()]


def test_fetch_without_a_connection_is_refused(tmp_path, cache):
    gone = (tmp_path / "gone.onnx").as_uri()
    path = write_card(tmp_path / "mine.yaml", f"{{url: '{gone}', sha256: {OTHER}}}")
    with pytest.raises(CardError, match=r"download failed \(.*\); check the network"):
        zoo.fetch(str(path))
    assert not [p for p in cache.rglob("*") if p.is_file()]


@pytest.mark.parametrize("licence", ["AGPL-3.0", "gpl-2.0-or-later", "AGPL-3.0-only OR Other"])
def test_weights_under_the_gpl_are_fetched_only_if_that_is_accepted(
    tmp_path, served, cache, licence
):
    file, url = served
    weights = f"{{url: '{url}', sha256: {sha256(file)}, licence: {licence}}}"
    path = write_card(tmp_path / "mine.yaml", weights)
    with pytest.raises(CardError, match=rf"mine: its licence .*{licence}.*--accept-licence"):
        zoo.fetch(str(path))
    assert not cache.exists()
    got = zoo.fetch(str(path), accept_licence=True)
    assert zoo.fetch(str(path)) == got  # it is there


@pytest.mark.parametrize("licence", ["Apache-2.0", "LGPL-3.0", "MIT", "BSD-3-Clause"])
def test_weights_under_other_licences_need_no_consent(tmp_path, served, licence):
    file, url = served
    weights = (
        f"{{url: '{url}', sha256: {sha256(file)}, licence: {licence}, code_licence: AGPL-3.0}}"
    )
    assert zoo.fetch(str(write_card(tmp_path / "mine.yaml", weights))).exists()


def test_cards_with_an_address_state_licences_accuracy_and_hardware():
    for entry in zoo.known():
        weights = entry.card.weights
        assert weights.cpu in ("cpu", "gpu")
        if weights.url is None:
            continue
        assert weights.url.startswith("https://")
        assert (weights.licence, weights.code_licence) == ("Apache-2.0", "Apache-2.0")
        assert weights.accuracy is not None
        assert 20 < weights.accuracy.value < 60


QUERIES = {"logits": ("batch", "queries", 80), "pred_boxes": ("batch", "queries", 4)}
PUBLISHED = {
    "yolox_nano": (416, {"output": (1, 3549, 85)}),
    "yolox_tiny": (416, {"output": (1, 3549, 85)}),
    "yolox_s": (640, {"output": (1, 8400, 85)}),
    "yolox_m": (640, {"output": (1, 8400, 85)}),
    "yolox_l": (640, {"output": (1, 8400, 85)}),
    "nanodet_plus_m_416": (416, {"output": (1, 3598, 112)}),
    "dfine_s": (None, QUERIES),
    "rtdetr_v2_s": (None, QUERIES),
}
"""Card -> side of the input in the published file (None: open), and its outputs."""


def test_each_card_with_an_address_fits_the_layout_of_its_file(tmp_path):
    with_url = {e.card.name: e.card for e in zoo.known() if e.card.weights.url}
    assert with_url.keys() == PUBLISHED.keys()
    for name, (side, outputs) in PUBLISHED.items():
        card = with_url[name]
        layers = yolox_layers() if name.startswith("yolox") else None
        shape = ["batch", 3, "height", "width"] if side is None else [1, 3, side, side]
        file = save(tmp_path / f"{name}.onnx", shape, outputs, layers=layers)
        found = inspect(file, card)
        assert found.input.size == ((side or 640,) * 2)
        assert (name, len(found.labels), found.classes) == (name, 80, 80)
        assert found.end_to_end == (side is None)
        decoder = families.make(found.family, found.input, found.classes, found.layout)
        raw = [
            np.zeros([1 if s is None else s for s in t.shape], np.float32) for t in found.outputs
        ]
        transform, _ = fit(100, 50, found.input.size, found.input.resize, found.input.anchor)
        boxes, scores, _ = decoder.decode(decoder.of_image(raw, 0, 1), transform, 0.4)
        # A score of 0 is 0.5 behind a sigmoid.
        assert (scores == 0.5).all() if side is None else len(boxes) == 0


def test_an_accuracy_out_of_bounds_is_refused(tmp_path):
    accuracy = "{figure: AP, value: 101, data: x, source: y}"
    path = write_card(tmp_path / "mine.yaml", f"{{file: m.onnx, accuracy: {accuracy}}}")
    with pytest.raises(CardError, match=r"weights\.accuracy\.value"):
        zoo.resolve(str(path))


def test_fetch_of_the_embedded_model_only_verifies_it():
    assert zoo.fetch("ssdlite_mobilenet_v2") == zoo.verify("ssdlite_mobilenet_v2")


def test_a_file_without_a_known_sha256_is_not_verified(tmp_path, served):
    file = served[0]
    with pytest.raises(
        NothingToCompare, match=rf"far\.onnx: nothing .*; the sha256 of .* {sha256(file)}"
    ):
        zoo.verify(str(file))
    card = write_card(tmp_path / "mine.yaml", "{file: served/far.onnx}")
    with pytest.raises(NothingToCompare, match=r"mine\.yaml: nothing .*: the card has no sha256"):
        zoo.verify(str(card))
    assert zoo.fetch(str(card)) == file  # which is present
    write_card(card, f"{{file: served/far.onnx, sha256: {sha256(file)}}}")
    assert zoo.verify(str(card)) == file


def test_fetch_of_a_model_file_is_refused(served):
    with pytest.raises(CardError, match=r"far\.onnx: nothing to download for a model file"):
        zoo.fetch(str(served[0]))


def test_the_files_of_a_model_are_its_card_and_its_weights(tmp_path, served):
    card = write_card(tmp_path / "mine.yaml", "{file: served/far.onnx}")
    assert zoo.files_of(str(card)) == [card, served[0]]
    assert zoo.files_of(str(served[0])) == [served[0]]
    write_card(card, "{file: gone.onnx}")
    assert zoo.files_of(str(card)) == [card]
