"""The model gets an image as in its training."""

import msgspec
import numpy as np
import pytest

import stages.inference.preprocess
from models.inspect import inspect
from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.stage import Context
from stages.inference.preprocess import Preprocess
from tests.builders import context_of
from tests.models.builders import save

BLUE, GREEN, RED = 10, 20, 30


def stage(tmp_path, shape=(1, 3, 64, 64), dtype="float32", **changes):
    """Make the stage for a YOLOv8 model with a changed input."""
    anchors = 8 * 8 + 4 * 4 + 2 * 2
    path = save(tmp_path / "m.onnx", shape, {"output0": (1, 6, anchors)}, dtype=dtype)
    contract = inspect(path)
    changes = {"colour": "bgr", "scale": 1.0} | changes
    changed = msgspec.structs.replace(contract.input, **changes)
    return Preprocess(
        Preprocess.Settings(), context_of(contract=msgspec.structs.replace(contract, input=changed))
    )


def test_the_input_is_that_of_the_following_model_where_there_are_two(tmp_path):
    before, behind = (
        inspect(save(tmp_path / f"{side}.onnx", (1, 3, side, side), {"output0": (1, 6, anchors)}))
        for side, anchors in ((64, 84), (96, 189))
    )
    context = Context(offers=(before,), offers_behind=(behind,))
    found = run(Preprocess(Preprocess.Settings(), context), plain(32, 32))
    assert found["input"].shape == (1, 3, 96, 96)


def plain(width, height):
    """Make an image of one colour."""
    return np.full((height, width, 3), (BLUE, GREEN, RED), np.uint8)


def run(stage, image):
    frame = Frame.of(image=image)
    stage.process(frame)
    return frame


LAYOUTS = [
    pytest.param((1, 3, 64, 64), id="nchw"),
    pytest.param((1, 64, 64, 3), id="nhwc"),
]
DTYPES = ["uint8", "float32", "float16"]


def channels(frame):
    """Return the input as (H, W, 3)."""
    model_input = frame["input"][0]
    return model_input if model_input.shape[2] == 3 else model_input.transpose(1, 2, 0)


@pytest.mark.parametrize("shape", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("colour", "seen"), [("bgr", (BLUE, GREEN, RED)), ("rgb", (RED, GREEN, BLUE))]
)
def test_channels_are_in_the_order_of_the_model(tmp_path, shape, dtype, colour, seen):
    frame = run(stage(tmp_path, shape, dtype, colour=colour), plain(100, 100))
    assert frame["input"].shape == shape
    assert frame["input"].dtype == dtype
    assert (channels(frame) == seen).all()


@pytest.mark.parametrize("shape", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_letterboxed_image_is_surrounded_by_padding(tmp_path, shape, dtype):
    made = stage(tmp_path, shape, dtype, pad=77)
    for image, inside in (
        (plain(128, 64), np.s_[16:48, :]),
        (plain(64, 128), np.s_[:, 16:48]),
        (plain(1, 1), np.s_[:, :]),
    ):
        found = channels(run(made, image)).copy()
        assert (found[inside] == (BLUE, GREEN, RED)).all()
        found[inside] = 77
        assert (found == 77).all()


@pytest.mark.parametrize("shape", LAYOUTS)
def test_a_letterboxed_image_at_the_top_left_has_padding_behind_it(tmp_path, shape):
    found = channels(run(stage(tmp_path, shape, anchor="top_left"), plain(128, 64)))
    assert (found[:32] == (BLUE, GREEN, RED)).all()
    assert (found[32:] == 114).all()


def test_a_stretched_image_fills_the_input(tmp_path):
    frame = run(stage(tmp_path, resize="stretch"), plain(200, 10))
    assert (channels(frame) == (BLUE, GREEN, RED)).all()
    np.testing.assert_allclose(frame["transform"], [64 / 200, 64 / 10, 0, 0])


def test_the_transform_has_scale_and_padding(tmp_path):
    frame = run(stage(tmp_path), plain(128, 64))
    assert frame["transform"].dtype == np.float64
    assert frame["transform"].tolist() == [0.5, 0.5, 0, 16]


@pytest.mark.parametrize("shape", LAYOUTS)
def test_normalisation_is_scale_then_mean_then_std(tmp_path, shape):
    made = stage(
        tmp_path, shape, colour="rgb", scale=1 / 255, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.4)
    )
    found = channels(run(made, plain(128, 64)))
    for value, at in ((np.array([RED, GREEN, BLUE]), 32), (114, 0)):
        want = (value / 255 - np.array([0.5, 0.4, 0.3])) / np.array([0.1, 0.2, 0.4])
        np.testing.assert_allclose(found[at, 5], want, rtol=1e-5)


def test_equal_normalisation_of_all_channels_is_applied(tmp_path):
    found = channels(run(stage(tmp_path, scale=2.0, mean=(1, 1, 1)), plain(64, 64)))
    assert (found == (2 * BLUE - 1, 2 * GREEN - 1, 2 * RED - 1)).all()


def test_an_image_is_resized_linearly(tmp_path):
    ramp = np.repeat(np.arange(128, dtype=np.uint8)[None, :, None], 128, axis=0).repeat(3, axis=2)
    found = channels(run(stage(tmp_path), ramp))
    # Each pixel is the mean of two, rounded.
    for row in found[:, :, 0]:
        np.testing.assert_allclose(row, np.arange(64) * 2 + 0.5, atol=0.51)


@pytest.mark.parametrize("dtype", DTYPES)
def test_images_of_changing_size_do_not_influence_each_other(tmp_path, dtype):
    made = stage(tmp_path, dtype=dtype)
    first = run(made, plain(128, 64))["input"].copy()
    run(made, plain(31, 77))
    np.testing.assert_array_equal(run(made, plain(128, 64))["input"], first)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_old_content_of_a_slot_does_not_influence_the_input(tmp_path, dtype):
    made = stage(tmp_path, dtype=dtype)
    clean = run(made, plain(128, 64))["input"].copy()
    used = Frame.of(image=plain(128, 64))
    used.empty("input", clean.shape, dtype)[...] = 99
    used.header.used -= clean.nbytes  # the next array is written at the same place
    made.process(used)
    np.testing.assert_array_equal(used["input"], clean)


def test_a_resize_that_does_not_write_in_place_is_copied(tmp_path, monkeypatch):
    real = stages.inference.preprocess.cv2.resize
    want = run(stage(tmp_path, (1, 64, 64, 3), "uint8"), plain(128, 64))["input"].copy()

    def elsewhere(image, size, dst, interpolation):
        return real(image, size, interpolation=interpolation)

    monkeypatch.setattr(stages.inference.preprocess.cv2, "resize", elsewhere)
    frame = run(stage(tmp_path, (1, 64, 64, 3), "uint8"), plain(128, 64))
    np.testing.assert_array_equal(frame["input"], want)


def test_an_image_of_a_wrong_size_fails_the_frame_with_both_sizes(tmp_path):
    with pytest.raises(ValueError, match=r"images of 64x64 only \(found 65x64\)"):
        run(stage(tmp_path, resize="none"), plain(65, 64))


def test_a_graph_without_a_detector_is_refused():
    with pytest.raises(SetupError, match="no detector follows"):
        Preprocess(Preprocess.Settings(), context_of())
