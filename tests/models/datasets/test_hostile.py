"""Any bytes in a data set give a data set, or are refused in one line; no name leads out of it."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import datasets
from models.datasets import FORMATS
from models.datasets.base import DataSet
from models.datasets.places import safe_name, walk
from models.errors import DataError
from tests.models.datasets.builders import image, small_set, text

FILES = {
    "coco": ["annotations.json"],
    "yolo": ["data.yaml", "labels/dog/a.txt"],
    "voc": ["Annotations/dog/a.xml", "labels.txt", "ImageSets/Main/default.txt"],
    "mot": ["c/gt/gt.txt", "c/seqinfo.ini", "c/gt/labels.txt"],
    "cvat": ["annotations.xml"],
    "label_studio": ["tasks.json", "classes.txt"],
    "folders": ["dog/a.png"],
    "pennfudan": ["Annotation/dog/a.txt", "labels.txt"],
}
"""Files of a written data set that are damaged here."""

CASES = [(format, file) for format, files in FILES.items() for file in files]
NOISE = st.sampled_from(
    b'|\0|\xff|-|1e999|nan|.inf|../|/|"|<|>|[|{|}|null|\n|:|&a;|\xed\xa0\x80|*|-1|1e308'.split(b"|")
) | st.binary(max_size=3)


def answer(path, format):
    """The data set, or why it is refused; every text is safe to show."""
    try:
        data = datasets.read(path, format)
    except DataError as error:
        texts = [str(error)]
    else:
        assert isinstance(data, DataSet)
        names = [item.name for item in (*data.images, *data.clips)]
        assert len(set(names)) == len(names)
        for item in data.images:
            assert item.path.is_relative_to(path)
            for thing in item.objects:
                x1, y1, x2, y2 = thing.box
                assert 0 <= x1 < x2 <= item.size[0]
                assert 0 <= y1 < y2 <= item.size[1]
                assert 0 <= thing.number < len(data.labels)
        texts = [*data.labels, *data.notes]
    assert all(found.isprintable() and len(found) <= 300 for found in texts)
    return texts


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Folder of a written data set of each format."""
    root = tmp_path_factory.mktemp("written")
    for format in FORMATS:
        datasets.write(small_set(root / "source" / format, format), root / format, format)
    track = small_set(root / "source" / "track", "mot")
    datasets.write(track, root / "track", "cvat")
    return root


@pytest.mark.parametrize(("format", "file"), [*CASES, ("track", "annotations.xml")])
@settings(max_examples=80, deadline=None)
@given(st.data())
def test_damaged_file_is_read_or_refused(written, format, file, data):
    path = written / format / file
    good = path.read_bytes()
    path.unlink()  # it may be a link to the source
    try:
        damaged = good
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(damaged)))
            end = at + data.draw(st.integers(0, 4) | st.just(len(damaged)))
            damaged = damaged[:at] + data.draw(NOISE) + damaged[end:]
        path.write_bytes(damaged)
        answer(written / format, {"track": "cvat"}.get(format, format))
        answer(written / format, "auto")
    finally:
        path.write_bytes(good)


def one_image(format, name):
    """File and content of a data set with an image of a name."""
    if format == "coco":
        row = {"id": 1, "file_name": name}
        return "a.json", json.dumps({"images": [row], "annotations": [], "categories": []})
    if format == "label_studio":
        done = [{"result": []}]
        return "a.json", json.dumps([{"data": {"image": name}, "annotations": done}])
    if format == "cvat":
        return "a.xml", f'<annotations><image name="{name}"/></annotations>'
    return "a.xml", f"<annotation><filename>{name}</filename></annotation>"


@pytest.mark.parametrize("format", ["coco", "voc", "cvat", "label_studio"])
@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "/etc/passwd", "a/../../x.jpg", "..", "..\\x.jpg", "C:\\x.jpg"],
)
def test_name_that_leaves_the_data_set_is_refused(tmp_path, format, name):
    image(tmp_path / "x.jpg")
    file, content = one_image(format, name)
    text(tmp_path / "set" / file, content)
    with pytest.raises(DataError, match="the name of a file leaves the data set"):
        datasets.read(tmp_path / "set", format)


@pytest.mark.parametrize("path", ["?d=../../x.jpg", "?d=/x.jpg", "?d=", "?e=1"])
def test_local_file_that_leaves_the_data_set_is_refused(tmp_path, path):
    image(tmp_path / "x.jpg")
    file, content = one_image("label_studio", f"/data/local-files/{path}")
    text(tmp_path / "set/deep" / file, content)
    with pytest.raises(DataError, match="leaves the data set"):
        datasets.read(tmp_path / "set/deep")


@given(st.text("ab./\\:\0", max_size=12))
def test_safe_names_stay_below_their_folder(name):
    try:
        found = safe_name(name, "x")
    except DataError:
        return
    parts = found.split("/")
    assert ".." not in parts
    assert "" not in parts
    assert "\\" not in found


def test_name_of_an_image_is_safe_to_show(tmp_path):
    name = "a\x1b[2Jb.jpg"
    text(tmp_path / "a.json", one_image("coco", name)[1])
    image(tmp_path / "x.jpg").rename(tmp_path / name)
    assert [item.name for item in datasets.read(tmp_path).images] == ["a?[2Jb.jpg"]


def test_links_in_a_circle_are_walked_once(tmp_path):
    image(tmp_path / "a/x.jpg")
    (tmp_path / "a/again").symlink_to(tmp_path)
    (tmp_path / "a/self").symlink_to(tmp_path / "a")
    assert list(walk(tmp_path, {".jpg"})) == [tmp_path / "a/x.jpg"]


def test_writer_refuses_names_that_leave_its_folder(tmp_path):
    for format in ("coco", "yolo", "voc", "cvat", "label_studio", "folders"):
        data = small_set(tmp_path / "source", format)
        item = msgspec.structs.replace(data.images[0], name="../../x.png")
        with pytest.raises(DataError, match="leaves the data set"):
            datasets.write(
                msgspec.structs.replace(data, images=(item,)), tmp_path / "out" / format, format
            )
    assert not (tmp_path / "x.png").exists()
