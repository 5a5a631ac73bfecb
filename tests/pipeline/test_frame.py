"""A frame: named arrays in a slot, views without a copy, and a header that says where they are."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from pipeline.edge import decode_header, encode
from pipeline.frame import ALIGN, Frame, Header, SlotFullError, Span, Status
from tests.builders import header

DTYPES = ("uint8", "int32", "int64", "float16", "float32", "float64", "bool")


def frame(limit=4096, used=0, size=None):
    memory = np.zeros(size or limit, np.uint8)
    return Frame(header(limit=limit, used=used), "demo", memoryview(memory)), memory


def test_an_array_is_read_back_as_it_was_put():
    given_, _ = frame()
    boxes = np.arange(8, dtype=np.float32).reshape(2, 4)
    given_.put("boxes", boxes)
    np.testing.assert_array_equal(given_["boxes"], boxes)
    assert given_["boxes"].dtype == np.float32


def test_arrays_are_placed_in_a_row_at_aligned_offsets():
    given_, _ = frame()
    given_.put("a", np.ones(3, np.uint8))
    given_.put("b", np.ones(65, np.uint8))
    given_.put("c", np.ones(1, np.float64))
    assert [given_.header.arrays[name][0] for name in "abc"] == [0, ALIGN, 3 * ALIGN]
    assert given_.header.used == 3 * ALIGN + 8


@settings(max_examples=40)
@given(
    st.lists(
        arrays_of.arrays(
            st.sampled_from(DTYPES),
            arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
        ),
        max_size=6,
    )
)
def test_arrays_of_any_kind_do_not_disturb_each_other(values):
    given_, _ = frame(limit=1 << 16)
    for i, value in enumerate(values):
        given_.put(str(i), value)
    for i, value in enumerate(values):
        found = given_[str(i)]
        assert found.shape == value.shape
        assert found.dtype == value.dtype
        np.testing.assert_array_equal(found, value)
        assert given_.header.arrays[str(i)][0] % ALIGN == 0


def test_nothing_is_copied_between_put_and_reading():
    given_, memory = frame()
    view = given_.empty("image", (4, 6, 3), np.uint8)
    view[...] = 7
    assert view.ctypes.data == given_["image"].ctypes.data == memory.ctypes.data
    assert memory[:72].tolist() == [7] * 72


def test_two_readers_see_the_same_memory():
    given_, _ = frame()
    view = given_.empty("image", (2, 2), np.uint8)
    reader = given_["image"]
    view[1, 1] = 9
    assert reader[1, 1] == 9


def test_a_view_that_was_read_cannot_be_written():
    given_, _ = frame()
    given_.put("image", np.zeros((2, 2), np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        given_["image"][0, 0] = 1


def test_an_array_put_again_replaces_the_first_in_new_room():
    given_, _ = frame()
    given_.put("boxes", np.zeros((2, 4), np.float32))
    first = given_["boxes"]
    given_.put("boxes", np.ones((5, 4), np.float32))
    assert given_["boxes"].shape == (5, 4)
    assert (given_["boxes"] == 1).all()
    assert (first == 0).all()  # a reader of the first array still sees the old values
    assert list(given_) == ["boxes"]


@pytest.mark.parametrize("shape", [(0,), (0, 4), (3, 0)])
def test_an_empty_array_keeps_shape_and_type(shape):
    given_, _ = frame()
    given_.put("boxes", np.empty(shape, np.float32))
    assert given_["boxes"].shape == shape
    assert given_["boxes"].dtype == np.float32


def test_an_empty_array_fits_at_the_very_end_of_a_slot():
    given_, _ = frame(limit=ALIGN)
    given_.put("full", np.zeros(ALIGN, np.uint8))
    given_.put("none", np.empty((0, 4), np.float32))
    assert given_["none"].shape == (0, 4)


def test_a_number_and_a_list_become_arrays():
    given_, _ = frame()
    given_.put("score", 0.5)
    given_.put("ids", [1, 2])
    assert given_["score"].shape == ()
    assert given_["ids"].tolist() == [1, 2]


def test_a_strided_array_is_put_by_its_values():
    given_, _ = frame()
    wide = np.arange(24, dtype=np.int32).reshape(4, 6)
    given_.put("part", wide[::2, ::-1])
    np.testing.assert_array_equal(given_["part"], wide[::2, ::-1])


def test_the_last_byte_of_a_slot_can_be_used():
    given_, _ = frame(limit=100)
    given_.put("a", np.ones(100, np.uint8))
    assert given_.header.used == 100


def test_too_large_an_array_is_refused_and_changes_nothing():
    given_, _ = frame(limit=128)
    given_.put("a", np.ones(10, np.uint8))
    before = msgspec.to_builtins(given_.header)
    with pytest.raises(
        SlotFullError,
        match=r"array 'raw0' \(3, 7\) float32 needs 84 bytes; the frame's slot has 64 left",
    ):
        given_.empty("raw0", (3, 7), np.float32)
    assert msgspec.to_builtins(given_.header) == before
    assert "raw0" not in given_


def test_a_full_slot_has_no_bytes_left():
    given_, _ = frame(limit=100, used=100, size=256)
    with pytest.raises(SlotFullError, match="has 0 left"):
        given_.put("a", np.ones(1, np.uint8))


def test_a_branch_stays_within_its_part_of_the_slot():
    given_, memory = frame(limit=192, used=128, size=256)
    given_.put("mine", np.full(64, 5, np.uint8))
    with pytest.raises(SlotFullError):
        given_.put("more", np.ones(1, np.uint8))
    assert not memory[:128].any()
    assert not memory[192:].any()


def test_an_array_that_no_stage_gave_is_a_key_error():
    given_, _ = frame()
    with pytest.raises(KeyError, match="boxes"):
        given_["boxes"]
    assert "boxes" not in given_


def test_time_is_that_of_the_source_or_else_of_the_capture():
    assert Frame(header(source_ns=1_500_000_000, captured_ns=9), "", memoryview(b"")).time_s == 1.5
    assert Frame(header(source_ns=0, captured_ns=9), "", memoryview(b"")).time_s == 0
    assert Frame(header(captured_ns=2_000_000_000), "", memoryview(b"")).time_s == 2.0


def test_a_frame_for_tests_knows_its_size_and_has_room():
    given_ = Frame.of("yard", 17, 1.7, image=np.zeros((4, 6, 3), np.uint8))
    assert (given_.stream, given_.seq, given_.time_s) == ("yard", 17, 1.7)
    assert (given_.width, given_.height) == (6, 4)
    given_.put("raw0", np.zeros((1000, 1000), np.float32))


def test_a_header_without_arrays_has_a_cause():
    given_ = header(arrays={"image": (0, "|u1", (4, 6, 3))})
    given_.without_arrays(Status.FAILED, "failed:nms")
    assert (given_.status, given_.cause, given_.arrays) == (Status.FAILED, "failed:nms", {})


def test_headers_do_not_share_arrays_or_spans():
    one, other = header(), header()
    one.arrays["image"] = (0, "|u1", (1, 1, 3))
    one.spans.append(Span(0, 0, 1, 2, 3))
    assert not other.arrays
    assert not other.spans


NS = st.integers(-1, 2**62)
WORDS = st.integers(0, 2**40)
HEADERS = st.builds(
    Header,
    stream=st.integers(0, 4000),
    seq=WORDS,
    attempt=WORDS,
    slot=st.integers(0, 256),
    generation=WORDS,
    status=st.sampled_from(Status),
    cause=st.sampled_from(["", "stale", "restart", "poison", "failed:nms"]),
    captured_ns=NS,
    wall_ns=NS,
    source_ns=NS,
    width=st.integers(0, 99999),
    height=st.integers(0, 99999),
    arrays=st.dictionaries(
        st.text(max_size=8),
        st.tuples(
            WORDS,
            st.sampled_from([np.dtype(name).str for name in DTYPES]),
            st.lists(st.integers(0, 9999), max_size=4).map(tuple),
        ),
        max_size=4,
    ),
    used=WORDS,
    limit=WORDS,
    spans=st.lists(
        st.builds(
            Span,
            stage=st.integers(0, 200),
            worker=st.integers(0, 999),
            taken_ns=NS,
            start_ns=NS,
            end_ns=NS,
        ),
        max_size=3,
    ),
)


@settings(max_examples=50)
@given(HEADERS)
def test_a_header_arrives_as_it_was_sent(sent):
    assert decode_header(encode(sent)) == sent


def test_a_header_with_the_arrays_and_spans_of_a_whole_graph_is_small():
    given_ = Frame.of(image=np.zeros((576, 768, 3), np.uint8))
    for name in ("input", "raw0", "boxes", "scores", "classes", "ids"):
        given_.put(name, np.zeros((1, 2), np.float32))
    given_.header.spans = [Span(i, i, 2**50, 2**50, 2**50) for i in range(6)]
    assert len(encode(given_.header)) < 500
