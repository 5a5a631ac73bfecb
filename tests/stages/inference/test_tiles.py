"""Tiles find small objects in large frames, each once, and cost one run of the model each."""

import itertools

import cv2
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.boxes.iou import iou_matrix
from models.families.base import Candidates, Detailed
from models.inspect import inspect
from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.stage import Context
from run import main
from stages.inference.detector import Detector
from stages.inference.nms import NonMaxSuppression, NonMaxSuppressionSettings
from stages.inference.preprocess import Preprocess
from stages.inference.tiles import Tiles, TilesSettings, without_repeats
from stages.thresholds import Suppression
from tests.builders import CLIP
from tests.models.builders import save

EMBEDDED = "ssdlite_mobilenet_v2"
SIZE = (4, 3)
"""Columns and rows of a mosaic."""


def make(model, kind=Tiles, contract=None, **settings):
    """Return the open stages from the image to the objects."""
    made = msgspec.convert({"model": str(model), "device": "cpu", **settings}, kind.Settings)
    offers = (*(() if contract is None else (contract,)), *kind.resolve(made).offers)
    context = Context(offers=offers, offers_behind=(Suppression(None), *offers))
    detector = kind(made, context)
    detector.open()
    before = [] if kind is Tiles else [Preprocess(Preprocess.Settings(), context)]
    return [*before, detector, NonMaxSuppression(NonMaxSuppressionSettings(), context)]


def run(stages, image):
    frame = Frame.of(image=image)
    for stage in stages:
        stage.process(frame)
    return frame


def black(width, height):
    return np.zeros((height, width, 3), np.uint8)


def one_box(tmp_path, *, score=0.75, box=(24, 12, 16, 8), batch=1):
    """Save a model of 64x64 that always finds a box: centre and size in px of its input."""
    rows = np.zeros((1, 6, 84), np.float32)
    rows[0, :5, 0] = *box, score
    return save(tmp_path / "m.onnx", [batch, 3, 64, 64], {"output0": rows})


# --- where the tiles are ---


@settings(deadline=None)
@given(
    st.integers(1, 5000),
    st.integers(1, 5000),
    st.one_of(
        st.fixed_dictionaries({"size_px": st.integers(160, 3000)}),
        st.fixed_dictionaries({"grid": st.tuples(st.integers(1, 9), st.integers(1, 9))}),
        st.just({}),
    ),
    st.floats(0, 0.9),
    st.booleans(),
)
def test_tiles_cover_the_frame_and_share_the_overlap(width, height, tiling, overlap, whole):
    tiles = plan(width, height, whole=whole, overlap=overlap, **tiling)
    assert all(
        0 <= t.left < t.left + t.width <= width and 0 <= t.top < t.top + t.height <= height
        for t in tiles
    )
    assert len({t.place for t in tiles}) == len(tiles)
    parts = [t for t in tiles if t.place != (0, 0, width, height)] or tiles
    assert len(tiles) - len(parts) == (whole and len(parts) > 1)
    for spans in (
        {(t.left, t.width) for t in parts},
        {(t.top, t.height) for t in parts},
    ):
        (side,) = {side for _, side in spans}
        starts = sorted(start for start, _ in spans)
        assert starts[0] == 0
        assert starts[-1] + side in (width, height)
        # A tile begins at a whole pixel.
        assert all(a + side - b >= int(side * overlap) - 1 for a, b in itertools.pairwise(starts))
        assert all(a + side >= b for a, b in itertools.pairwise(starts))
    if "grid" in tiling:
        assert len(parts) <= tiling["grid"][0] * tiling["grid"][1]
    else:
        side = tiling.get("size_px", 300)
        assert {(t.width, t.height) for t in parts} == {(min(side, width), min(side, height))}


def plan(width, height, **settings):
    """Return the tiles of a frame; the model is not loaded."""
    made = TilesSettings(max_tiles=10**9, **settings)
    return Tiles(made, Context(offers=OFFERS))._tiles(width, height)


OFFERS = Tiles.resolve(TilesSettings()).offers


def places(*args, **settings):
    return [tile.place for tile in plan(*args, **settings)]


def test_a_grid_divides_the_frame():
    assert places(128, 64, grid=(2, 1), overlap=0) == [
        (0, 0, 64, 64),
        (64, 0, 128, 64),
        (0, 0, 128, 64),
    ]
    # Of tiles of 100 px, two overlap by 20.
    assert places(260, 100, grid=(3, 1), whole=False) == [
        (0, 0, 100, 100),
        (80, 0, 180, 100),
        (160, 0, 260, 100),
    ]


def test_tiles_of_the_size_of_the_input_are_the_default():
    assert places(600, 300, whole=False) == [
        (0, 0, 300, 300),
        (150, 0, 450, 300),
        (300, 0, 600, 300),
    ]
    assert places(540, 300, whole=False) == [(0, 0, 300, 300), (240, 0, 540, 300)]


@pytest.mark.parametrize("settings", [{}, {"size_px": 640}, {"grid": (1, 1)}])
def test_a_frame_that_fits_in_one_tile_is_one_tile(settings):
    for size in ((200, 300), (1, 1), (1, 300), (300, 1)):
        assert places(*size, **settings) == [(0, 0, *size)]


def test_a_frame_with_fewer_pixels_than_tiles_has_fewer_tiles():
    assert places(1, 400, grid=(4, 2), overlap=0, whole=False) == [(0, 0, 1, 200), (0, 200, 1, 400)]


# --- boxes ---


def test_boxes_of_all_tiles_are_in_pixels_of_the_frame(tmp_path):
    stages = make(one_box(tmp_path), grid=[2, 2], overlap=0)
    found = run(stages, black(128, 128))
    tiles = [(16, 8, 32, 16), (80, 8, 96, 16), (16, 72, 32, 80), (80, 72, 96, 80)]
    assert sorted(map(tuple, found["boxes"].tolist())) == sorted([*tiles, (32, 16, 64, 32)])


def test_a_tile_of_another_size_is_resized(tmp_path):
    # Tiles of 32x32 are enlarged twice.
    stages = make(one_box(tmp_path), size_px=32, overlap=0, whole=False)
    found = run(stages, black(64, 32))
    assert sorted(found["boxes"].tolist()) == [[8, 4, 16, 8], [40, 4, 48, 8]]


@pytest.mark.parametrize("size", [(768, 576), (300, 200), (64, 48), (1, 576), (768, 1)])
def test_one_tile_gives_the_same_as_the_detector(size, street):
    image = cv2.resize(street, size)
    expected, found = (
        run(stages, image) for stages in (detector(), tiles_of_embedded(grid=[1, 1]))
    )
    for name in ("boxes", "scores", "classes", "weak_boxes"):
        assert found[name].tobytes() == expected[name].tobytes()


@pytest.mark.parametrize("size", [(1, 900), (900, 1), (301, 2)])
def test_a_frame_one_pixel_wide_is_processed(size, street):
    found = run(tiles_of_embedded(), cv2.resize(street, size))
    assert np.isfinite(found["boxes"]).all()


@pytest.fixture(scope="module")
def clip():
    """Images of the demo clip, 18 apart."""
    capture = cv2.VideoCapture(str(CLIP))
    images = [image for good, image in iter(capture.read, (False, None)) if good]
    return images[::18]


@pytest.fixture(scope="module")
def street(clip):
    return clip[0]


def detector():
    return make(EMBEDDED, Detector)


def tiles_of_embedded(**settings):
    return make(EMBEDDED, **settings)


def people(frame):
    return frame["boxes"][frame["classes"] == 0]


def recall(expected, found, min_iou=0.5):
    """Return the part of boxes that a box of its own overlaps, best pairs first."""
    iou = iou_matrix(expected, found)
    count = 0
    while iou.size and iou.max() >= min_iou:
        row, column = np.unravel_index(iou.argmax(), iou.shape)
        iou[row], iou[:, column] = 0, 0
        count += 1
    return count / len(expected)


def test_people_in_a_mosaic_are_found_with_tiles_only(clip):
    images = clip[: SIZE[0] * SIZE[1]]
    rows = [np.hstack(images[i : i + SIZE[0]]) for i in range(0, len(images), SIZE[0])]
    mosaic = np.vstack(rows)
    assert mosaic.shape == (1728, 3072, 3)
    single = detector()
    offset = np.array([768, 576, 768, 576])
    expected = np.concatenate(
        [
            people(run(single, image)) + offset * ([i % SIZE[0], i // SIZE[0]] * 2)
            for i, image in enumerate(images)
        ]
    )
    assert len(expected) >= 60
    without = people(run(single, mosaic))
    found = people(run(tiles_of_embedded(size_px=768), mosaic))
    assert recall(expected, without) < 0.1
    assert recall(expected, found) > 0.75
    # None is there twice.
    iou = iou_matrix(found, found)
    assert (iou - np.eye(len(found)) <= 0.5 + 1e-6).all()


# --- one box per object ---

LEFT, RIGHT, WHOLE = (0, 0, 60, 100), (40, 0, 100, 100), (0, 0, 100, 100)
PLACES = (LEFT, RIGHT, WHOLE)


def kept(rows, max_iou=None):
    """Return which of (box, class, number of the tile) are kept; the best comes first."""
    boxes, classes, numbers = zip(*rows, strict=True)
    return without_repeats(
        np.array(boxes, np.float32),
        np.array(classes),
        np.array(numbers),
        np.array(PLACES, np.float32),
        max_iou,
    ).tolist()


PERSON = (30, 10, 58, 90)
PART = (40, 10, 58, 90)


def test_the_part_of_an_object_that_another_tile_has_whole_is_dropped():
    assert kept([(PERSON, 0, 0), (PART, 0, 1)]) == [0]
    # Their IoU is 0.64; a smaller part has a low one.
    assert kept([((5, 10, 48, 90), 0, 0), ((40, 10, 49, 90), 0, 1)]) == [0]


def test_a_part_with_a_better_score_than_the_whole_is_kept_beside_it():
    assert kept([((40, 10, 49, 90), 0, 1), ((5, 10, 48, 90), 0, 0)]) == [0, 1]


def test_the_parts_of_an_object_larger_than_a_tile_are_dropped():
    whole = (5, 10, 95, 90)
    parts = [((5, 10, 60, 90), 0, 0), ((40, 10, 95, 90), 0, 1)]
    assert kept([(whole, 0, 2), *parts]) == [0]
    # Both see the same from 40 to 60.
    assert kept(parts) == [0]


def test_a_small_object_in_front_of_a_large_one_is_kept():
    # All of it is inside the other, which the measure of the paper takes for a repetition.
    assert kept([((5, 0, 60, 100), 0, 0), ((42, 60, 58, 90), 0, 1)]) == [0, 1]


def test_boxes_of_another_class_or_of_the_same_tile_are_kept():
    assert kept([(PERSON, 0, 0), (PART, 1, 1)]) == [0, 1]
    assert kept([(PERSON, 0, 0), (PART, 0, 0)]) == [0, 1]


def test_a_dropped_box_drops_no_other_box():
    chain = [((5, 10, 58, 90), 0, 0), ((42, 10, 60, 90), 0, 1), ((42, 45, 60, 90), 0, 2)]
    assert kept(chain) == [0, 2]
    assert kept(chain[1:]) == [0]


def area(box):
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def common(a, b):
    return (*np.maximum(a[:2], b[:2]).tolist(), *np.minimum(a[2:], b[2:]).tolist())


def iou(a, b):
    shared = area(common(a, b))
    return shared / (area(a) + area(b) - shared) if shared else 0.0


BOXES = st.tuples(
    st.integers(0, 99), st.integers(0, 99), st.integers(1, 60), st.integers(1, 60)
).map(lambda box: (box[0], box[1], min(box[0] + box[2], 100), min(box[1] + box[3], 100)))
ROWS = st.lists(st.tuples(BOXES, st.integers(0, 1), st.integers(0, 2)), min_size=1, max_size=12)


@given(ROWS, st.sampled_from([None, 0.3, 0.5]))
def test_boxes_are_dropped_as_by_the_rule_in_plain_loops(rows, max_iou):
    inside = [(common(box, PLACES[tile]), label, tile) for box, label, tile in rows]
    inside = [row for row in inside if area(row[0])] or [(PERSON, 0, 0)]
    left: list[int] = []
    for i, (box, label, tile) in enumerate(inside):
        repeated = False
        for other, of, by in (inside[j] for j in left):
            seen = common(PLACES[tile], PLACES[by])
            agree = iou(common(box, seen), common(other, seen)) > 0.5 and area(other) >= area(box)
            agree |= max_iou is not None and iou(box, other) > max_iou
            repeated |= of == label and by != tile and agree and area(common(box, other)) > 0
        if not repeated:
            left.append(i)
    assert kept(inside, max_iou) == left


@pytest.mark.parametrize(("end_to_end", "count"), [(False, 2), (True, 1)])
def test_a_model_that_suppresses_overlaps_has_its_tiles_suppressed_here(
    tmp_path, end_to_end, count
):
    path = one_box(tmp_path)
    contract = msgspec.structs.replace(inspect(path), end_to_end=end_to_end)
    tiles, _ = make(path, contract=contract, size_px=64, overlap=0.5, whole=False)
    assert [tile.place for tile in tiles._tiles(96, 64)] == [(0, 0, 64, 64), (32, 0, 96, 64)]
    # Both tiles see all of an object from 36 to 60, the second, a larger box, less surely.
    answers = iter([((36, 10, 60, 50), 0.8), ((4, 8, 29, 54), 0.7)])

    def decode(raw, transform, min_score):
        box, score = next(answers)
        return Candidates(np.float32([box]), np.float32([score]), np.int32([0]))

    tiles._family.decode_detailed = lambda *args: Detailed(decode(*args))
    frame = Frame.of(image=black(96, 64))
    tiles.process(frame)
    assert frame["boxes"].tolist() == [[36, 10, 60, 50], [36, 8, 61, 54]][:count]


# --- runs of the model ---


class Counting:
    """Wraps a runtime and records how many images a run has."""

    on_gpu = False

    def __init__(self, inner):
        self.inner, self.sizes, self.first = inner, [], []

    def run(self, inputs):
        images = inputs["images"]
        self.sizes.append(len(images))
        self.first += images[:, 0, 0, 0].tolist()
        return self.inner.run(inputs)


@pytest.mark.parametrize(
    ("batch", "at_once", "sizes"),
    [("n", 1, [1] * 5), ("n", 3, [3, 2]), (2, 1, [2, 2, 2]), (1, 3, [1] * 5)],
    ids=["open, one", "open, three", "fixed, two", "fixed, one"],
)
def test_a_frame_runs_the_model_once_per_tile(tmp_path, batch, at_once, sizes):
    path = save(tmp_path / "m.onnx", [batch, 3, 64, 64], {"output0": (batch, 6, 84)})
    tiles = make(path, grid=[2, 2], overlap=0, tiles_at_once=at_once)[0]
    tiles._runtime = Counting(FromPixel())
    image = black(128, 128)
    for i, (x, y) in enumerate([(0, 0), (64, 0), (0, 64), (64, 64)]):
        image[y : y + 64, x : x + 64] = 51 * (i + 1)
    beats = []
    tiles.beat = lambda: beats.append(1)
    frame = Frame.of(image=image)
    tiles.process(frame)
    assert tiles._runtime.sizes == sizes
    assert len(beats) == len(sizes)
    # The score is the value of the first pixel, so each box shows which tile it is of.
    found = {
        tuple(box): score
        for box, score in zip(frame["boxes"].tolist(), frame["scores"].tolist(), strict=True)
    }
    assert found == {
        (16, 8, 32, 16): pytest.approx(0.2),
        (80, 8, 96, 16): pytest.approx(0.4),
        (16, 72, 32, 80): pytest.approx(0.6),
        (80, 72, 96, 80): pytest.approx(0.8),
        (32, 16, 64, 32): pytest.approx(0.2),
    }
    assert len(tiles.infer(frame)) == len(sizes)


class FromPixel:
    """A model that finds one box, with the value of the first pixel as its score."""

    def run(self, inputs):
        images = inputs["images"]
        rows = np.zeros((len(images), 6, 84), np.float32)
        rows[:, :4, 0] = 24, 12, 16, 8
        rows[:, 4, 0] = images[:, 0, 0, 0]
        return [rows]


def test_the_slot_of_a_frame_holds_boxes_and_no_tiles(street):
    frame = Frame.of(image=street)
    before = frame.header.used
    tiles_of_embedded(grid=[4, 4])[0].process(frame)
    assert set(frame) == {"image", "boxes", "scores", "classes"}
    assert frame.header.used - before < 100_000


def test_frames_of_a_batch_are_processed_one_after_the_other(street, clip):
    tiles = tiles_of_embedded(grid=[2, 1])[0]
    frames = [Frame.of(image=image) for image in clip[:2]]
    tiles.process_batch(frames)
    for frame, image in zip(frames, clip, strict=False):
        alone = Frame.of(image=image)
        tiles.process(alone)
        assert frame["boxes"].tobytes() == alone["boxes"].tobytes()


# --- before the start ---


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"grid": [2, 2], "size_px": 300}, "grid, size_px: both are given; leave out one"),
        ({"grid": [8, 8]}, r"grid: expected at most max_tiles \(64\) tiles, found 65 with the"),
        ({"model": "nothing"}, "no card has this name"),
    ],
)
def test_tiles_that_cannot_work_are_refused(settings, complaint):
    with pytest.raises(SetupError, match=complaint):
        Tiles.resolve(msgspec.convert(settings, TilesSettings))


def test_a_model_that_takes_one_size_only_is_refused(tmp_path):
    save(tmp_path / "m.onnx", [1, 3, 64, 64], {"output0": (1, 6, 84)})
    card = tmp_path / "m.yaml"
    card.write_text(
        "name: m\nfamily: yolov8\nweights: {file: m.onnx}\ntask: detect\ninput: {resize: none}\n"
    )
    with pytest.raises(
        SetupError,
        match=r"does not take all of an image of any size .* set another",
    ):
        Tiles.resolve(TilesSettings(model=str(card)))


def test_a_frame_that_needs_too_many_tiles_fails_with_the_remedy(street):
    words = r"^a frame of 3840x2160 needs more tiles than max_tiles \(found 145, at most 64\); set"
    with pytest.raises(ValueError, match=words):
        run(tiles_of_embedded(), cv2.resize(street, (3840, 2160)))


def test_tiles_take_the_place_of_preprocess_and_detector(tmp_path, capsys):
    config = tmp_path / "c.yaml"
    config.write_text(
        f"streams: {{demo: {{source: {CLIP}}}}}\n"
        "stages:\n  capture: {use: capture}\n  detector: {use: tiles}\n"
        '  nms: {use: nms, classes: [person]}\n  tracker: {use: tracker}\n  end: {use: "null"}\n'
    )
    arguments = ["check", str(config), "--model", EMBEDDED, "--device", "cpu"]
    assert main(arguments) == 0
    assert "Tiles  size_px 300x300" in capsys.readouterr().out
    assert main([*arguments, "--set", "detector.grid=[3, 2]"]) == 0
    assert main([*arguments, "--set", "detector.grid=[0, 2]"]) == 2
    assert "stages.detector: grid[0]: expected `int` >= 1" in capsys.readouterr().err
