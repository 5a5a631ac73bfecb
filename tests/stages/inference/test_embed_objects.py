"""Vectors of objects: of length 1, of the right rows, and means over a track."""

import numpy as np
import pytest

from pipeline.errors import SetupError
from pipeline.memory.saved_states import STATE_BYTES
from pipeline.testing import context, run_stages
from stages.inference.embed_objects import EmbedObjects, EmbedObjectsSettings
from tests.models.seeing import LENGTH, NAMES, classifier, embedder
from tests.stages.inference.test_classify_objects import crowd, of_colours


def make(model, **settings):
    settings = EmbedObjectsSettings(model=str(model), device="cpu", **settings)
    return EmbedObjects(settings, context(stage="looks"))


@pytest.fixture
def model(tmp_path):
    return embedder(tmp_path / "m.onnx")


def direction(name):
    """The vector of a crop of one colour."""
    vector = np.zeros(LENGTH)
    vector[NAMES.index(name) :: 3] = 1
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("batch", [1, "N"])
def test_objects_get_the_vectors_of_their_own_pixels(batch, tmp_path):
    stage = make(embedder(tmp_path / "m.onnx", batch), margin=0)
    names = ["blue", "red", "green"]
    [frame] = run_stages([stage], [of_colours(names)])
    assert frame["embedding_rows"].tolist() == [0, 1, 2]
    expected = [direction(name) for name in names]
    assert np.allclose(frame["embeddings"], expected, atol=1e-3)
    assert np.allclose(np.linalg.norm(frame["embeddings"].astype(float), axis=1), 1, atol=2e-3)


def test_the_vector_of_a_track_is_the_mean_of_all_so_far(model):
    frames = [of_colours([name], seq=seq) for seq, name in enumerate(["red", "blue"])]
    run_stages([make(model, margin=0)], frames)
    assert np.allclose(frames[0]["embeddings"], [direction("red")], atol=1e-3)
    both = direction("red") + direction("blue")
    assert np.allclose(frames[1]["embeddings"], [both / np.linalg.norm(both)], atol=2e-3)


def test_a_settled_track_is_left_out(model):
    stage = make(model, vectors=2)
    frames = run_stages([stage], [of_colours(["red"], seq=seq) for seq in range(4)])
    assert [frame["embedding_rows"].tolist() for frame in frames] == [[0], [0], [], []]
    assert frames[3]["embeddings"].shape == (0, LENGTH)
    assert stage.counters() == {"crops": 2}


def test_rows_ascend_where_the_newest_objects_are_tried_first(model):
    frames = [of_colours(["red"], [5], seq=0), of_colours(["red", "blue"], [5, 6], seq=1)]
    run_stages([make(model, margin=0)], frames)
    assert frames[1]["embedding_rows"].tolist() == [0, 1]
    assert np.allclose(frames[1]["embeddings"][1], direction("blue"), atol=1e-3)


def test_an_object_of_which_the_model_gives_nothing_has_no_vector(model):
    [frame] = run_stages([make(model)], [of_colours([None, "red"])])
    assert frame["embedding_rows"].tolist() == [1]


def test_objects_without_ids_have_a_vector_of_their_own_each_time(model):
    frames = [of_colours(["red"], [-1], seq=0), of_colours(["blue"], [-1], seq=1)]
    run_stages([make(model, vectors=1, margin=0)], frames)
    assert np.allclose(frames[1]["embeddings"], [direction("blue")], atol=1e-3)


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_restored_stage_gives_the_same_bytes(cut, model):
    def frames():
        return [of_colours(["red", "blue", None][seq % 2 :], seq=seq) for seq in range(5)]

    whole, parts = run_stages([make(model)], frames()), frames()
    first, again = make(model), make(model)
    first.open()
    for frame in parts[:cut]:
        first.process(frame)
    again.open()
    again.restore("test", first.state("test"))
    for frame in parts[cut:]:
        again.process(frame)
    for name in ("embeddings", "embedding_rows"):
        assert [f[name].tobytes() for f in parts] == [f[name].tobytes() for f in whole]


def test_the_state_of_as_many_tracks_as_are_kept_can_be_saved(model):
    stage = make(model, max_per_frame=300)
    stage.open()
    stage.process(crowd(0))
    assert len(stage._streams["test"].by_id) == 300
    assert len(stage.state("test")) / 300 * stage.max_tracks < STATE_BYTES


def test_more_vectors_than_can_be_saved_are_refused(tmp_path):
    long = embedder(tmp_path / "m.onnx", length=2048)
    with pytest.raises(SetupError, match=r"max_per_frame: .* 20 vectors of 2048 numbers.* at most"):
        make(long, max_per_frame=20)
    make(long, max_per_frame=15)


def test_a_classifier_is_refused(tmp_path):
    with pytest.raises(SetupError, match=r"does not take \(embed\); choose another model"):
        make(classifier(tmp_path / "m.onnx"))
