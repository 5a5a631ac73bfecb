"""A family of a second task is one file and one line: see `softmax.py` beside this file."""

import numpy as np
import pytest

from models import families, zoo
from models.errors import CardError, ContractError
from models.inspect import inspect
from models.runtime import Runtime
from models.transform import fit
from tests.models.builders import save, yolox_layers
from tests.models.softmax import TABLE_LINE, ClassScores

LOGITS = np.log([[[0.125, 0.5, 0.25, 0.125]]])
CARD = "name: pets\ntask: classify\nfamily: softmax\nweights: {file: m.onnx}\n"
LABELS = ("bird", "cat", "dog", "fish")


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setitem(families.FAMILIES, *TABLE_LINE)


@pytest.fixture
def classifier(tmp_path, registered):
    """The path of a card for a small classifier."""
    save(tmp_path / "m.onnx", [1, 3, 32, 32], {"logits": LOGITS})
    card = tmp_path / "pets.yaml"
    card.write_text(f"{CARD}labels: [{', '.join(LABELS)}]\n")
    return card


def test_a_classifier_is_resolved_run_and_decoded(classifier):
    contract = zoo.resolve(str(classifier))
    assert (contract.task, contract.family, contract.classes) == ("classify", "softmax", 4)
    (raw,) = Runtime(contract, "cpu").run({"images": np.zeros(contract.input.shape, np.float32)})
    family = families.load(contract.family)(contract.input, contract.classes)
    transform, _ = fit(640, 480, contract.input.size, contract.input.resize, contract.input.anchor)

    found = family.decode([raw[0]], transform, min_score=0.0)
    assert found.scores == pytest.approx([0.5, 0.25, 0.125, 0.125])
    assert [contract.labels[i] for i in found.classes] == ["cat", "dog", "bird", "fish"]
    assert family.decode([raw[0]], transform, min_score=0.2).classes.tolist() == [1, 2]


def test_the_declared_outputs_name_the_arrays_of_the_result(registered):
    declared = families.load("softmax").outputs
    assert tuple(output.name for output in declared) == ClassScores._fields
    detector = families.load("generic").outputs
    assert [output.name for output in detector] == ["boxes", "scores", "classes"]


def test_a_classifier_is_recognised_without_a_card(tmp_path, registered):
    contract = inspect(save(tmp_path / "m.onnx", [1, 3, 32, 32], {"logits": LOGITS}))
    assert (contract.task, contract.family) == ("classify", "softmax")
    assert "task     classify" in contract.describe()


def test_only_families_of_the_task_in_the_metadata_are_asked(tmp_path, registered):
    outputs, detect = {"logits": LOGITS}, {"task": "detect"}
    path = save(tmp_path / "m.onnx", [1, 3, 32, 32], outputs, metadata=detect)
    with pytest.raises(ContractError, match="no family can read the outputs"):
        inspect(path)
    save(path, [1, 3, 32, 32], outputs, metadata={"task": "classify"})
    assert inspect(path).family == "softmax"
    save(path, [1, 3, 32, 32], outputs, metadata={"task": "depth"})
    with pytest.raises(ContractError, match=r"found depth\); use a model with task classify or"):
        inspect(path)


def test_a_card_without_the_task_of_its_family_is_refused(classifier):
    classifier.write_text(CARD.replace("task: classify\n", "task: detect\n"))
    with pytest.raises(CardError, match=r"family softmax \(found detect, .* has classify\)"):
        zoo.resolve(str(classifier))


def test_detectors_are_recognised_as_before(tmp_path, registered):
    path = save(
        tmp_path / "m.onnx", [1, 3, 416, 416], {"output": (1, 3549, 85)}, layers=yolox_layers()
    )
    assert inspect(path).family == "yolox"
