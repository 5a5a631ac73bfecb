"""A leading ~ in a path of any sink is the home folder, in the settings that all see."""

import pytest

from pipeline.config import convert
from pipeline.graph.load import load_class
from stages import LOCATIONS
from stages.sinks.files.output_path import check_local

PATHS = [
    ("events", "path", {}),
    ("mot", "path", {}),
    ("video", "path", {}),
    ("pictures", "folder", {}),
    ("clips", "folder", {}),
    ("mqtt", "spool", {"broker": "lan"}),
    ("mqtt", "ca", {"broker": "lan"}),
    ("mqtt", "certificate", {"broker": "lan"}),
    ("mqtt", "key", {"broker": "lan"}),
    ("webhook", "spool", {"url": "http://lan"}),
    ("webhook", "ca", {"url": "https://lan"}),
    ("zmq", "secret_key_file", {}),
]


@pytest.mark.parametrize(("use", "setting", "others"), PATHS)
def test_the_home_folder_is_put_in_place_of_a_tilde(use, setting, others, monkeypatch, tmp_path):
    # `~` became a folder of this name for videos and clips.
    monkeypatch.setenv("HOME", str(tmp_path))
    kind = load_class(use, LOCATIONS, "test")
    made = convert({**others, setting: "~/a/file.mp4"}, kind.Settings, "test")
    assert getattr(made, setting) == str(tmp_path / "a" / "file.mp4")


@pytest.mark.parametrize(("use", "setting", "others"), PATHS)
def test_a_tilde_elsewhere_is_a_character_of_the_name(use, setting, others):
    kind = load_class(use, LOCATIONS, "test")
    for path in ("a~b.mp4", "./~/x.mp4"):
        assert getattr(convert({**others, setting: path}, kind.Settings, "test"), setting) == path
    check_local("path", "./~/x.mp4")
