"""A card is strict: a value out of bounds is refused with its path."""

import pytest

from models.card import load
from models.errors import CardError

GOOD = "name: m\nfamily: ssd\nweights: {file: m.onnx}\n"


def test_a_card_needs_only_name_family_and_weights(tmp_path):
    (tmp_path / "m.yaml").write_text(GOOD)
    card = load(tmp_path / "m.yaml")
    assert (card.task, card.labels, card.input.size) == (None, None, None)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "expected `object`"),
        ("name: [", "not YAML"),
        ("name: m\nfamily: ssd\nweights: {}", "weights: no model file; set `file` or `url`"),
        ("name: m\nfamily: ssd\nweights: {url: http://x}", "weights: `url` without `sha256`"),
        ("name: m\nfamily: ssd\nweights: {file: m, sha256: 12}", "sha256"),
        ("name: a/b\nfamily: ssd\nweights: {file: m}", r"name"),
        (GOOD + "lables: [a]", "lables: unknown key; did you mean 'labels'"),
        (GOOD + "task: read", "read"),
        (GOOD + "input: {size: [0, 300]}", r"input.size"),
        (GOOD + "input: {resize: squash}", r"input.resize"),
        (GOOD + "input: {std: [1, 0, 1]}", r"input.std: must not be 0 \(found \(1.0, 0.0, 1.0\)"),
        (GOOD + "thresholds: {score: 2}", r"thresholds.score"),
    ],
)
def test_a_wrong_card_is_refused_with_its_path(tmp_path, text, complaint):
    path = tmp_path / "m.yaml"
    path.write_text(text)
    with pytest.raises(CardError, match=complaint) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_card_is_refused_with_its_path(tmp_path):
    with pytest.raises(CardError, match=r"none\.yaml: the card cannot be read: No such file"):
        load(tmp_path / "none.yaml")
