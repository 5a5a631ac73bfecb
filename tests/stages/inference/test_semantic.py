"""A class for each part of the frame: the map, the counts of pixels, and what is refused."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.testing import context, run_stages
from stages.details import SemanticLabels, semantic_of
from stages.inference.semantic import Semantic, SemanticSettings, count_pixels
from tests.models.builders import save
from tests.models.seeing import NAMES, picture, segmenter


def settings_of(model, **settings):
    return SemanticSettings(model=str(model), device="cpu", **settings)


def make(model):
    return Semantic(settings_of(model), context())


@pytest.fixture
def model(tmp_path):
    return segmenter(tmp_path / "m.onnx")


def nearest(classes, width, height):
    """The map resized to a frame, pixel by pixel."""
    rows, columns = classes.shape
    return np.array(
        [
            [classes[y * rows // height, x * columns // width] for x in range(width)]
            for y in range(height)
        ]
    )


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 30), st.integers(1, 30), st.data())
def test_counts_are_those_of_the_map_resized_to_the_frame(rows, columns, width, height, data):
    numbers = st.sampled_from([0, 1, 7, 255])
    cells = data.draw(st.lists(numbers, min_size=rows * columns, max_size=rows * columns))
    classes = np.array(cells, np.uint8).reshape(rows, columns)
    expected = np.bincount(nearest(classes, width, height).ravel(), minlength=256)
    assert count_pixels(classes, width, height).tolist() == expected.tolist()


@pytest.mark.parametrize("size", [(640, 480), (1920, 1080), (768, 576), (7, 5), (100, 3)])
def test_counts_are_those_of_opencv(size):
    classes = np.random.default_rng(0).integers(0, 21, (65, 33)).astype(np.uint8)
    resized = cv2.resize(classes, size, interpolation=cv2.INTER_NEAREST)
    expected = np.bincount(resized.ravel(), minlength=256)
    assert count_pixels(classes, *size).tolist() == expected.tolist()


def test_map_and_counts_are_those_of_the_picture(model):
    frame = Frame.of(image=picture(320, 160, red=(0, 0, 320, 160), blue=(160, 0, 320, 80)))
    run_stages([make(model)], [frame])
    expected = np.zeros((8, 8), np.uint8)
    expected[:4, 4:] = NAMES.index("blue")
    assert frame["semantic_map"].tolist() == expected.tolist()
    found = semantic_of(frame)
    assert found.size == (160, 320)
    assert found.counts == {"red": 320 * 160 - 160 * 80, "blue": 160 * 80}


def test_a_letterboxed_model_gives_a_map_without_the_padding(model, tmp_path):
    (tmp_path / "card.yaml").write_text(
        "name: m\nweights: {file: m.onnx}\nfamily: semantic\ninput: {resize: letterbox, pad: 0}\n"
    )
    frame = Frame.of(image=picture(320, 160, green=(0, 0, 320, 160)))
    run_stages([make(tmp_path / "card.yaml")], [frame])
    assert frame["semantic_map"].shape == (4, 8)
    assert semantic_of(frame).counts == {"green": 320 * 160}


def test_a_batch_gives_what_single_frames_give(model):
    images = [picture(90, 60, **{name: (0, 0, 45 + i, 60)}) for i, name in enumerate(NAMES)]
    single = run_stages([make(model)], [Frame.of(image=image) for image in images])
    stage = make(model)
    stage.open()
    frames = [Frame.of(image=image) for image in images]
    stage.process_batch(frames)
    for one, other in zip(single, frames, strict=True):
        assert one["semantic_map"].tolist() == other["semantic_map"].tolist()
        assert one["semantic"].tobytes() == other["semantic"].tobytes()


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1)])
def test_frames_of_any_size_are_counted_whole(size, model):
    [frame] = run_stages([make(model)], [Frame.of(image=picture(*size, red=(0, 0, *size)))])
    assert semantic_of(frame).counts == {"red": size[0] * size[1]}


def test_labels_and_replicas_are_offered(model):
    resolved = Semantic.resolve(settings_of(model, replicas=3))
    assert SemanticLabels(NAMES) in resolved.offers
    assert resolved.replicas == 3


def test_a_model_that_sees_a_part_of_the_frame_is_refused(model, tmp_path):
    (tmp_path / "card.yaml").write_text(
        "name: m\nweights: {file: m.onnx}\nfamily: semantic\ninput: {resize: crop}\n"
    )
    with pytest.raises(SetupError, match="leaves the edges of the frame without classes"):
        Semantic.resolve(settings_of(tmp_path / "card.yaml"))


def test_a_second_stage_of_its_kind_is_refused(model):
    with pytest.raises(SetupError, match="another stage before it gives the classes of the pixels"):
        Semantic(settings_of(model), context(labels=SemanticLabels(NAMES)))


def test_a_detector_is_refused(tmp_path):
    detector = save(tmp_path / "d.onnx", [1, 3, 64, 64], {"output0": (1, 6, 84)})
    with pytest.raises(SetupError, match=r"does not take \(semantic\)"):
        make(detector)
