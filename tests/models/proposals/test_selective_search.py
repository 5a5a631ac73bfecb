"""Proposals find the objects of drawn pictures, and are the same in every run."""

import sys

import cv2
import msgspec
import numpy as np
import pytest

from models.boxes.iou import iou_matrix
from models.errors import CacheError, ProposalError
from models.proposals.cache import ProposalCache
from models.proposals.grouping import Similarity, group
from models.proposals.recall import recall
from models.proposals.segments import bins_of, measure, segment
from models.proposals.selective_search import SearchSettings, selective_search

QUICK = SearchSettings(colours=("lab",), scales=(100.0,), similarities=(Similarity(),))


@pytest.fixture(autouse=True)
def scikit_image():
    return pytest.importorskip("skimage")


@pytest.fixture
def scene(rng):
    """A noisy picture with a plain, a striped and a two-coloured object, and their boxes."""
    image = np.full((240, 320, 3), (160, 150, 140), np.uint8)
    image[40:120, 30:90] = (40, 40, 200)
    stripes = np.arange(80) // 4 % 2 * 120 + 60
    image[60:200, 140:220] = stripes[None, :, None]
    image[150:190, 250:300], image[190:230, 250:300] = (30, 160, 40), (200, 60, 60)
    noisy = image.astype(int) + rng.integers(-6, 7, image.shape)
    boxes = [(30, 40, 90, 120), (140, 60, 220, 200), (250, 150, 300, 230)]
    return noisy.astype(np.uint8), np.array(boxes, float)


def test_objects_of_one_look_and_of_parts_are_proposed(scene):
    image, truth = scene
    boxes = selective_search(image)
    assert boxes.dtype == np.float32
    assert iou_matrix(truth, boxes).max(axis=1).min() > 0.85
    assert len(np.unique(boxes, axis=0)) == len(boxes)
    assert [0, 0, 320, 240] in boxes.tolist()


def test_proposals_are_in_pixels_of_a_picture_that_is_made_smaller(scene):
    image, truth = scene
    large = cv2.resize(image, None, fx=3, fy=4, interpolation=cv2.INTER_NEAREST)
    boxes = selective_search(large)
    assert iou_matrix(truth * (3, 4, 3, 4), boxes).max(axis=1).min() > 0.8
    assert [0, 0, 960, 960] in boxes.tolist()


def test_the_same_settings_give_the_same_order_and_another_seed_not(scene):
    image, _ = scene
    first = selective_search(image, QUICK)
    np.testing.assert_array_equal(first, selective_search(image.copy(), QUICK))
    other = selective_search(image, msgspec.structs.replace(QUICK, seed=1))
    assert first.tolist() != other.tolist()
    assert sorted(first.tolist()) == sorted(other.tolist())
    few = selective_search(image, msgspec.structs.replace(QUICK, max_proposals=5))
    np.testing.assert_array_equal(few, first[:5])


@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (700, 1), (2, 3), (50, 60)])
@pytest.mark.parametrize("kind", ["uniform", "noise"])
def test_a_picture_of_any_shape_has_at_least_itself_as_proposal(shape, kind, rng):
    height, width = shape
    image = np.full((*shape, 3), 7, np.uint8)
    if kind == "noise":
        image = rng.integers(0, 256, image.shape, np.uint8)
    colours = SearchSettings(colours=("hsv", "lab", "bgr", "grey"))
    boxes = selective_search(image, colours).tolist()
    assert [0, 0, width, height] in boxes
    assert all(0 <= a < c <= width and 0 <= b < d <= height for a, b, c, d in boxes)
    if kind == "uniform":
        assert len(boxes) == 1


def test_the_work_for_a_picture_of_8k_is_bounded(rng):
    image = np.kron(rng.integers(0, 256, (54, 96, 3), np.uint8), np.ones((80, 80, 1), np.uint8))
    settings = msgspec.structs.replace(QUICK, max_side_px=160)
    boxes = selective_search(image, settings)
    # Segments have 50 px or more, so 160 * 90 px make less than 2 * 288 regions.
    assert 1 < len(boxes) < 576
    assert [0, 0, 7680, 4320] in boxes.tolist()


def test_small_proposals_are_left_out(scene):
    image, _ = scene
    boxes = selective_search(image, msgspec.structs.replace(QUICK, min_side_px=70))
    assert (boxes[:, 2:] - boxes[:, :2]).min() >= 70
    assert len(boxes) < len(selective_search(image, QUICK))


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)],
    ids=["grey", "float", "empty"],
)
def test_what_is_no_colour_picture_is_refused(image):
    with pytest.raises(ProposalError, match="give a colour picture"):
        selective_search(image)


def test_missing_scikit_image_is_an_error_of_one_line(monkeypatch, scene):
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(ProposalError, match=r'run pip install "eyeline\[rcnn\]"') as caught:
        selective_search(scene[0])
    assert "\n" not in str(caught.value)


def measured(scene):
    image, _ = scene
    labels = segment(image, 60, 50)
    return image, labels, measure(labels, bins_of(image))


def test_segments_are_measured_as_in_plain_python(scene):
    image, labels, segments = measured(scene)
    for region in range(len(segments.sizes)):
        y, x = np.nonzero(labels == region)
        box = [x.min(), y.min(), x.max() + 1, y.max() + 1]
        assert segments.boxes[region].tolist() == box
        assert segments.sizes[region] == len(x)
        colours = [np.histogram(image[y, x, c], 25, (0, 256))[0] for c in range(3)]
        expected = np.concatenate(colours) / (3 * len(x))
        np.testing.assert_allclose(segments.histograms[region, :75], expected, atol=1e-6)
        wide = np.pad(labels == region, 1)
        near = wide[2:, 1:-1] | wide[:-2, 1:-1] | wide[1:-1, 2:] | wide[1:-1, :-2]
        assert segments.neighbours[region] == set(labels[near].tolist()) - {region}
    np.testing.assert_allclose(segments.histograms[:, 75:].sum(axis=1), 1, atol=1e-5)


def test_an_edge_is_texture_of_the_directions_across_it():
    image = np.zeros((40, 40, 1), np.uint8)
    image[:, 20:] = 255
    parts = bins_of(image).texture
    # It grows to the right, and less, by the cosine, along 45 degrees up and down.
    strongest = [int(part.max()) for part in parts]
    assert strongest == [9, 6, 0, 0, 0, 0, 0, 6]


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (0, 1, 1, 1), (0, 0, 1, 0)])
def test_grouping_joins_the_most_similar_pair_as_in_plain_python(scene, weights):
    _, _, segments = measured(scene)
    boxes, area = group(segments, Similarity(*weights)), segments.sizes.sum()
    found, alive = segments.boxes.tolist(), set(range(len(segments.sizes)))
    sizes, near = segments.sizes.tolist(), [set(own) for own in segments.neighbours]
    looks = [row.astype(float) for row in segments.histograms]

    def box_of(a, b):
        low, high = np.minimum(found[a], found[b])[:2], np.maximum(found[a], found[b])[2:]
        return [*low.tolist(), *high.tolist()]

    def similar(pair):
        a, b = pair
        left, top, right, bottom = box_of(a, b)
        shared, size = np.minimum(looks[a], looks[b]), sizes[a] + sizes[b]
        hole = (right - left) * (bottom - top) - size
        parts = (shared[:75].sum(), shared[75:].sum(), 1 - size / area, 1 - hole / area)
        return np.dot(weights, parts)

    while len(alive) > 1:
        pairs = [(a, b) for a in sorted(alive) for b in sorted(near[a]) if a < b]
        scores = np.array([similar(pair) for pair in pairs])
        made = boxes[len(found)].tolist()
        # Float32 sums may order two equal pairs in another way.
        best = [p for p, s in zip(pairs, scores, strict=True) if s > scores.max() - 1e-5]
        a, b = next(pair for pair in best if box_of(*pair) == made)
        new, size = len(found), sizes[a] + sizes[b]
        found.append(made)
        looks.append((looks[a] * sizes[a] + looks[b] * sizes[b]) / size)
        sizes.append(size)
        near.append((near[a] | near[b]) - {a, b})
        for other in near[new]:
            near[other] = near[other] - {a, b} | {new}
        alive = alive - {a, b} | {new}
    assert len(boxes) == len(found)


def test_recall_counts_objects_that_the_first_proposals_overlap():
    truth = np.array([(0, 0, 10, 10), (20, 20, 30, 30)], float)
    proposals = np.array([(50, 50, 60, 60), (0, 0, 10, 5), (20, 20, 30, 29)], float)
    none = np.zeros((0, 4))
    pictures = [(truth, proposals), (none, proposals), (truth[:1], none)]
    np.testing.assert_allclose(recall(pictures, (0, 1, 2, 3)), [0, 0, 1 / 3, 2 / 3])
    np.testing.assert_allclose(recall(pictures, (3,), 0.6), [1 / 3])
    assert np.isnan(recall([(none, proposals)], (3,))).all()


def test_stored_proposals_are_those_of_the_same_pixels_and_settings(tmp_path, scene, monkeypatch):
    image, _ = scene
    cache = ProposalCache(tmp_path / "made", QUICK)
    first = cache.proposals(image)
    np.testing.assert_array_equal(first, selective_search(image, QUICK))
    others = [image[:, ::-1], image.reshape(320, 240, 3)]
    paths = {cache.path_of(picture) for picture in (image, *others)}
    paths.add(ProposalCache(tmp_path / "made", SearchSettings()).path_of(image))
    assert len(paths) == 4
    monkeypatch.setattr("models.proposals.cache.selective_search", None)
    np.testing.assert_array_equal(cache.proposals(image.copy()), first)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"half", None])
def test_a_damaged_file_of_proposals_is_written_again(tmp_path, content):
    image = np.full((20, 20, 3), 9, np.uint8)
    cache = ProposalCache(tmp_path, QUICK)
    first = cache.proposals(image)
    path = cache.path_of(image)
    path.write_bytes(path.read_bytes()[:-3] if content is None else content)
    np.testing.assert_array_equal(cache.proposals(image), first)
    np.testing.assert_array_equal(np.load(path), first)
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    cache = ProposalCache(tmp_path / "file", QUICK)
    with pytest.raises(CacheError, match="choose a folder that can be written"):
        cache.proposals(np.zeros((8, 8, 3), np.uint8))


def test_a_search_beats_after_each_hierarchy(scene):
    image, _ = scene
    beats = []
    selective_search(image, SearchSettings(colours=("lab",)), lambda: beats.append(1))
    assert len(beats) == 4
