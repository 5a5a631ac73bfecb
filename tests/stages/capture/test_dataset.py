"""A data set as a source: its images in order, each frame with the name of its image."""

import cv2
import numpy as np
import pytest

from models import datasets
from models.datasets.base import DataSet, LabelledImage
from pipeline.errors import SetupError, SourceError
from pipeline.frame import Frame
from pipeline.stage import SourceInfo
from stages.capture.dataset import Dataset, DatasetSettings
from tests.builders import context_of


def frames_of(stage):
    found = []
    while True:
        frame = Frame.of(seq=len(found))
        stage.offer(frame)
        if not stage.collect():
            return found
        found.append(frame)


def opened(settings):
    stage = Dataset(settings, context_of(stream="data"))
    stage.open()
    return stage


@pytest.fixture
def whole(tmp_path):
    """A data set without a damaged image."""
    images = []
    for i in range(4):
        path = tmp_path / f"{i}.png"
        assert cv2.imwrite(str(path), np.full((20 + i, 30, 3), 10 * i, np.uint8))
        images.append(LabelledImage(path, path.name, (30, 20 + i)))
    data = DataSet(
        root=tmp_path, format="coco", task="detect", labels=("hat",), images=tuple(images)
    )
    datasets.write(data, tmp_path / "set", "coco")
    return DatasetSettings(data=str(tmp_path / "set"))


def test_frames_are_the_images_in_order_with_their_names(whole):
    found = frames_of(opened(whole))
    assert [frame["image"].shape[0] for frame in found] == [20, 21, 22, 23]
    assert [int(frame["image"].mean()) for frame in found] == [0, 10, 20, 30]
    assert [frame.file.rpartition("/")[2] for frame in found] == [f"{i}.png" for i in range(4)]
    assert all(frame.header.still for frame in found)


def test_the_number_of_images_is_known_before_the_start(whole):
    (info,) = Dataset.resolve(whole).offers
    assert isinstance(info, SourceInfo)
    assert (info.frames, info.live) == (4, False)
    few = DatasetSettings(data=whole.data, frames=2)
    assert Dataset.resolve(few).offers[0].frames == 2
    assert len(frames_of(opened(few))) == 2


def test_after_a_crash_it_continues_behind_the_images_taken(whole):
    stage = opened(whole)
    stage.skip(3, -1)
    (last,) = frames_of(stage)
    assert last["image"].shape[0] == 23


def test_an_image_that_cannot_be_decoded_is_counted(whole, caplog):
    stage = opened(whole)
    damaged = stage._images[1].path
    damaged.unlink()
    damaged.write_bytes(b"\x89PNG damaged")
    assert [frame["image"].shape[0] for frame in frames_of(stage)] == [20, 22, 23]
    assert stage.missed() == (0, 1)
    assert stage.missed() == (0, 0)
    assert "skipped, it cannot be decoded" in caplog.text


def test_the_images_are_declared_as_files_that_are_read(whole):
    reads = Dataset.resources(whole).reads
    assert {path.name for path in reads} >= {f"{i}.png" for i in range(4)}


def test_a_data_set_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(SetupError, match="the data set is not there; name a file or folder"):
        Dataset.resolve(DatasetSettings(data=str(tmp_path / "none")))


def test_a_data_set_of_clips_is_refused_as_images(tmp_path):
    (tmp_path / "seq" / "gt").mkdir(parents=True)
    (tmp_path / "seq" / "img1").mkdir()
    assert cv2.imwrite(str(tmp_path / "seq/img1/000001.jpg"), np.zeros((9, 9, 3), np.uint8))
    (tmp_path / "seq" / "gt" / "gt.txt").write_text("1,1,1,1,4,4,1,1,1\n")
    with pytest.raises(SourceError, match="has clips and no images"):
        Dataset.resolve(DatasetSettings(data=str(tmp_path / "seq")))


def test_part_of_a_split_file_is_read_alone(whole, tmp_path):
    split = tmp_path / "split.json"
    split.write_text('{"train": ["0.png", "2.png"], "test": ["3.png", "1.png"]}')
    settings = DatasetSettings(data=whole.data, split=f"{split}:test")
    (info,) = Dataset.resolve(settings).offers
    assert info.frames == 2
    names = [frame.file.rpartition("/")[2] for frame in frames_of(opened(settings))]
    assert names == ["1.png", "3.png"]
    assert split in Dataset.resources(settings).reads


@pytest.mark.parametrize(
    ("text", "part", "message"),
    [
        ('{"test": ["x.png", "0.png", "y.png"]}', "test", r"found 'x\.png'.* \(and 1 more fault\)"),
        ('{"test": []}', "test", "the part test has no image; name another part"),
        ('{"test": []}', "dev", "dev: no part of a split; name one of train, val, test"),
        ("[]", "test", "not a file of parts"),
        (None, "test", r"split\.json"),
    ],
)
def test_split_file_that_does_not_fit_is_refused(whole, tmp_path, text, part, message):
    split = tmp_path / "split.json"
    if text is not None:
        split.write_text(text)
    with pytest.raises(SetupError, match=message):
        Dataset.resolve(DatasetSettings(data=whole.data, split=f"{split}:{part}"))
