"""Suppression in a network equals that of `models/boxes` and of onnxruntime, whatever the boxes."""

import io
import warnings

import numpy as np
import pytest

from models import runtime
from models.boxes.iou import iou_matrix

torch = pytest.importorskip("torch")

from models.training.suppression import Limits, best_first, suppressed  # noqa: E402 - needs torch

LIMITS = Limits(0.5, 5, 0.1)
KINDS = ("apart", "on top of each other", "random", "low scores", "a point", "none")


def candidates(kind, rng):
    """Boxes (3, K, 4) and scores (3, K) of three classes."""
    count = 0 if kind == "none" else 30
    corners = rng.uniform(0, 90, (3, count, 2))
    if kind == "apart":
        corners = np.broadcast_to(np.arange(count)[:, None] * 40.0, corners.shape)
    if kind == "on top of each other":
        corners = corners * 0 + 20
    boxes = np.concatenate([corners, corners + (0 if kind == "a point" else 30)], axis=2)
    scores = rng.uniform(0, 0.09 if kind == "low scores" else 1, (3, count))
    return torch.from_numpy(boxes.astype(np.float32)), torch.from_numpy(scores.astype(np.float32))


def plain(boxes, scores):
    """The rows that remain, one by one."""
    found = []
    for number in range(len(boxes)):
        kept = []
        for row in np.argsort(-scores[number], kind="stable"):
            overlaps = iou_matrix(boxes[number, [row]], boxes[number, kept])
            if scores[number, row] > LIMITS.min_score and not (overlaps > LIMITS.max_iou).any():
                kept.append(row)
        found += [(number, row) for row in kept[: LIMITS.max_boxes]]
    return found


class Chosen(torch.nn.Module):
    """Suppression, then the best of all classes, between other operators."""

    def forward(self, boxes, scores):
        kept = suppressed(boxes * 1.0, scores * 1.0, LIMITS)
        values = scores[kept[:, 0], kept[:, 1]]
        best = best_first(values, 8)
        return kept, values[best]


@pytest.fixture(scope="module")
def exported():
    file = io.BytesIO()
    example = torch.rand(3, 4, 4), torch.rand(3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own, of deprecated parts
        torch.onnx.export(
            *(Chosen(), example, file),
            dynamo=False,
            opset_version=17,
            input_names=["boxes", "scores"],
            dynamic_axes={"boxes": {1: "K"}, "scores": {1: "K"}},
        )
    return runtime.open_graph(file.getvalue())


@pytest.mark.parametrize("kind", KINDS)
def test_the_rows_equal_plain_python_and_onnxruntime(kind, exported, rng):
    boxes, scores = candidates(kind, rng)
    kept, best = Chosen()(boxes, scores)
    assert kept.tolist() == [list(pair) for pair in plain(boxes.numpy(), scores.numpy())]
    assert best.tolist() == sorted(scores[kept[:, 0], kept[:, 1]].tolist(), reverse=True)[:8]
    own_kept, own_best = exported({"boxes": boxes.numpy(), "scores": scores.numpy()})
    np.testing.assert_array_equal(own_kept, kept.numpy())
    np.testing.assert_array_equal(own_best, best.numpy())


def test_of_equal_scores_the_lower_row_comes_first():
    assert best_first(torch.tensor([0.5, 0.9, 0.9, 0.5]), 3).tolist() == [1, 2, 0]
