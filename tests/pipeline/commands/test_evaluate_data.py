"""Faults of the data set that `evaluate` measures on."""

import pytest

from models.datasets.base import DataSet
from pipeline.commands.evaluate import _read
from pipeline.errors import SetupError
from stages.capture.dataset import DatasetSettings
from tests.models.datasets.builders import image, text


def damaged(root, *lines):
    image(root / "images/a.png")
    text(root / "classes.txt", "cat\n")
    text(root / "labels/a.txt", "".join(f"{line}\n" for line in lines))
    return DatasetSettings(data=str(root))


def test_all_faults_of_the_data_set_are_printed(tmp_path, capsys):
    settings = damaged(tmp_path, "3 .5 .5 .1 .1", "0 .5", "0 .5 .5 .1 .1")
    with pytest.raises(SetupError, match="2 faults, listed above; correct them"):
        _read(settings)
    first, second = capsys.readouterr().err.splitlines()
    assert "line 1: class 3 has no name" in first
    assert "line 2: not `class cx cy width height`" in second


def test_a_single_fault_is_the_error_itself(tmp_path, capsys):
    with pytest.raises(SetupError, match="line 1: class 3 has no name"):
        _read(damaged(tmp_path, "3 .5 .5 .1 .1"))
    assert capsys.readouterr().err == ""


def test_good_data_set_is_returned(tmp_path):
    assert isinstance(_read(damaged(tmp_path, "0 .5 .5 .1 .1")), DataSet)
