"""Frames with no object, one object and many: saved, copied and answered again alike."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from pipeline.frame import ALIGN, Frame, Status
from pipeline.stage import Array, Settings, Stage
from tests.builders import header
from tests.pipeline.worker import stand as stand_file
from tests.pipeline.worker.stand import SCRIPT, Stand, run, stand

__all__ = ["stand"]  # the fixture that gives every worker here sockets that only note

DETECTIONS = (
    Array("boxes", "float32", (None, 4)),
    Array("scores", "float32", (None,)),
    Array("classes", "int32", (None,)),
)

PLAN = {}
"""Name of a stage -> what it puts for each frame: name of an array -> the array."""

ANY = arrays_of.arrays(
    st.sampled_from(("uint8", "int32", "int64", "float32", "float64", "bool")),
    arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
"""Arrays of any kind; many have a zero side."""

ROWS = st.sampled_from((0, 0, 1, 2, 40))
"""Boxes of a frame: none often, one, some, many."""

FEW = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


class Put(Stage):
    """Puts what the test has laid out."""

    gives = DETECTIONS

    class Settings(Settings, frozen=True):
        batch: int = 1

    def process(self, frame):
        for name, value in PLAN[self.context.stage][frame.seq].items():
            frame.put(name, value)


class Keep(Put):
    """The same in order, with a state."""

    ordered = True

    def state(self, stream):
        return b""


@pytest.fixture(autouse=True)
def stages(monkeypatch):
    registry = stand_file.REGISTRY | {
        "put": "tests.pipeline.test_empty_arrays:Put",
        "keep": "tests.pipeline.test_empty_arrays:Keep",
        "tracker": "stages.tracking.tracker:TrackerStage",
        "nms": "stages.inference.nms:NonMaxSuppression",
    }
    monkeypatch.setattr(stand_file, "REGISTRY", registry)
    yield
    PLAN.clear()


def detections(rows, seed=0):
    """So many boxes in a row, which move by a pixel with each seed."""
    left = np.arange(rows, dtype=np.float32) * 30 + seed
    return {
        "boxes": np.stack([left, left * 0, left + 20, left * 0 + 40], axis=1),
        "scores": np.full(rows, 0.9, np.float32),
        "classes": np.zeros(rows, np.int32),
    }


def arrays(stand, of):
    frame = stand.frame(of)
    return {name: frame[name].copy() for name in frame}


def assert_same(found, wanted):
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        assert (found[name].shape, found[name].dtype) == (value.shape, value.dtype)
        np.testing.assert_array_equal(found[name], value)


@FEW
@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.sampled_from("xyz"), ANY, max_size=3),
            st.dictionaries(st.sampled_from("xyz"), ANY, max_size=3),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_resent_frames_of_any_arrays_get_the_same_answer(frames):
    stand = Stand(
        {"a": {"use": "put"}, "b": {"use": "keep"}, "c": {"use": "note"}},
        streams={"demo": {"slots": 4}},
    )
    PLAN["b"] = [kept for _, kept in frames]
    stand.open("b")

    def give(of, taken):
        frame = Frame(of, "demo", stand.arena.memory(of.slot))
        for name, value in taken.items():
            frame.put(name, value)
        stand.take(of, after="a")
        return arrays(stand, stand.sent[-1])

    firsts = [give(stand.lend(), taken) for taken, _ in frames]
    stand.open("b")  # its successor after a death
    for slot, (taken, _) in enumerate(frames):
        assert_same(give(stand.again(slot), taken), firsts[slot])
    for first, (taken, kept) in zip(firsts, frames, strict=True):
        assert_same(first, {name: np.asarray(value) for name, value in (taken | kept).items()})


@FEW
@given(st.lists(ROWS, min_size=1, max_size=8), st.floats(0.0, 1.0))
def test_the_tracker_continues_the_same_after_a_death_at_any_frame(rows, score):
    stages = {
        "a": {"use": "put"},
        "b": {"use": "tracker", "new_track_score": 0.6 + 0.4 * score},
        "c": {"use": "note"},
    }
    found = []
    for dies in (False, True):
        stand = Stand(stages).open("b")
        for seq, count in enumerate(rows):
            lent = stand.lend(slot=0, source_ns=seq * 40_000_000)
            for again in (False, dies):
                of = stand.again(0) if again else lent
                if again:
                    stand.open("b")
                for name, value in detections(count, seq).items():
                    stand.frame(of).put(name, value)
                stand.take(of, after="a")
            found.append((dies, arrays(stand, stand.sent[-1])))
            stand.arena.end_loan(0, "")
    for (_, calm), (_, struck) in zip(found[: len(rows)], found[len(rows) :], strict=True):
        assert_same(struck, calm)


@FEW
@given(st.lists(ROWS, min_size=1, max_size=4))
def test_a_batch_with_empty_frames_equals_its_frames_alone(rows):
    PLAN["a"] = [detections(count) for count in rows]
    found = []
    for batch in (1, 4):
        stages = {
            "a": {"use": "put", "process": "x", "batch": batch},
            "b": {"use": "nms", "process": "x"},
            "c": {"use": "note"},
        }
        stand = Stand(stages, streams={"demo": {"slots": 4}}).open("a")
        lent = [stand.lend() for _ in rows]
        for part in [lent] if batch > 1 else [[one] for one in lent]:
            stand.take(*part)
        found.append([arrays(stand, of) for of in stand.sent])
    for alone, together in zip(*found, strict=True):
        assert_same(together, alone)


@FEW
@given(ROWS, ROWS)
def test_branches_add_empty_arrays_without_disturbing_each_other(left, right):
    PLAN["a"] = [detections(2)]
    PLAN["b"], PLAN["c"] = [detections(left)], [detections(right)]
    stages = {
        "a": {"use": "put", "process": "x"},
        "b": {"use": "put", "process": "x", "after": "a"},
        "b2": {"use": "note", "after": "b", "process": "y"},
        "c": {"use": "keep", "process": "x", "after": "a"},
        "c2": {"use": "note", "after": "c", "process": "z"},
    }
    stand = Stand(stages).open("a")
    stand.take(stand.lend())
    first = {worker: arrays(stand, of) for worker, _, of in stand.sockets.frames}
    stand.open("a")
    stand.take(stand.again())
    again = {worker: arrays(stand, of) for worker, _, of in stand.sockets.frames}
    assert sorted(len(found["boxes"]) for found in first.values()) == sorted((left, right))
    for worker, found in first.items():
        assert_same(again[worker], found)


@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0)])
@pytest.mark.parametrize("used", [0, ALIGN, ALIGN + 1, 2 * ALIGN - 1, 2 * ALIGN])
def test_an_empty_array_fits_wherever_a_slot_is_full(shape, used):
    memory = np.zeros(2 * ALIGN, np.uint8)
    frame = Frame(header(limit=max(used, ALIGN), used=used), "demo", memoryview(memory))
    frame.put("none", np.empty(shape, np.float32))
    assert frame["none"].shape == shape
    assert frame.header.used == used


def test_images_without_a_pixel_are_lent_and_resent():
    SCRIPT[:] = [(0, 0), (4, 6), (0, 5), (3, 0)]
    stand = Stand({"a": {"use": "note"}})
    shapes = {}

    def look(of, done):
        if of.status == Status.LIVE:
            shapes[of.seq] = stand.frame(of)["image"].shape
            again = stand.arena.header_again(of.slot, 0)
            assert stand.frame(again)["image"].shape == shapes[of.seq]
        return True

    assert run(stand, look).delivered == 4
    assert shapes == {0: (0, 0, 3), 1: (4, 6, 3), 2: (0, 5, 3), 3: (3, 0, 3)}


def test_a_state_of_no_bytes_is_saved_and_read_back():
    stand = Stand({"b": {"use": "keep"}})
    assert stand.arena.states.saved("b") is None
    for text in (b"", b"x", b""):
        stand.arena.states.save("b", text)
        assert stand.arena.states.saved("b") == text
