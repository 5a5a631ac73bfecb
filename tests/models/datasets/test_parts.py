"""The three parts of a data set: how they are drawn, written, read and taken."""

from pathlib import Path

import numpy as np
import pytest

from models.datasets.base import DataSet, LabelledImage
from models.datasets.parts import (
    Parts,
    fold_images,
    read_parts,
    split_images,
    take,
    write_parts,
)
from models.errors import DataError, DataFaults


def named(*names):
    images = tuple(LabelledImage(Path(name), name, (8, 8)) for name in names)
    return DataSet(root=Path("set"), format="", task="detect", labels=("a",), images=images)


def numbered(count):
    # Not in the order of their names.
    return named(*(f"{at:03}.png" for at in reversed(range(count))))


def in_rows(sizes):
    """Groups of so many images in a row."""
    ends = np.cumsum(sizes)
    return [list(range(end - size, end)) for size, end in zip(sizes, ends, strict=True)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_test_part_is_the_end_of_the_named_permutation(seed):
    data = numbered(170)
    parts = split_images(data, seed, 0.2, 0.2)
    names = sorted(image.name for image in data.images)
    order = np.random.RandomState(seed).permutation(170)
    assert parts.test == tuple(sorted(names[at] for at in order[-34:]))
    assert parts.val == tuple(sorted(names[at] for at in order[-68:-34]))
    assert parts.train == tuple(sorted(names[at] for at in order[:-68]))
    assert split_images(data, seed, 0.2, 0.2) == parts


def test_groups_stay_together_and_common_images_join_them():
    data = numbered(40)
    groups = [[0, 1, 2], [2, 7], [10, 11], [30, 31, 32, 33]]
    together = [{0, 1, 2, 7}, {10, 11}, {30, 31, 32, 33}]
    for seed in range(20):
        parts = split_images(data, seed, 0.25, 0.25, groups)
        own = [set(part) for part in (parts.train, parts.val, parts.test)]
        assert sum(map(len, own)) == 40
        assert len(set.union(*own)) == 40
        for group in together:
            names = {data.images[at].name for at in group}
            assert sum(bool(names & part) for part in own) == 1
        # A group of four exceeds a part of 10 by at most 2.
        assert 8 <= len(parts.test) <= 12


@pytest.mark.parametrize("sizes", [(90, 5, 5), (5, 90, 5), (33, 33, 34)])
def test_each_of_three_groups_becomes_a_part(sizes):
    data = numbered(sum(sizes))
    for seed in range(6):
        parts = split_images(data, seed, 0.05, 0.05, in_rows(sizes))
        found = [len(part) for part in (parts.train, parts.val, parts.test)]
        assert sorted(found) == sorted(sizes)
        assert found[0] == max(sizes) or max(sizes) < 50


def test_two_groups_for_three_parts_are_refused():
    with pytest.raises(DataError, match="the part val would have no image"):
        split_images(numbered(100), 0, 0.05, 0.05, in_rows((60, 40)))


@pytest.mark.parametrize(("val", "test"), [(0.5, 0.5), (-0.1, 0.2), (float("nan"), 0.1)])
def test_fractions_that_leave_nothing_are_refused(val, test):
    with pytest.raises(DataError, match="a sum below 1"):
        split_images(numbered(10), 0, val, test)


def test_wanted_part_has_an_image_even_of_a_tiny_set():
    parts = split_images(numbered(3), 0, 0.1, 0.1)
    assert [len(parts.named(part)) for part in ("train", "val", "test")] == [1, 1, 1]
    assert split_images(numbered(3), 0, 0.0, 0.0).train == ("000.png", "001.png", "002.png")


def test_written_parts_are_read_again(tmp_path):
    data = named("a/1.png", "b/1.png", "ü.png")
    parts = Parts(train=("a/1.png",), val=("ü.png",), test=("b/1.png",))
    write_parts(tmp_path / "s.json", parts)
    assert read_parts(tmp_path / "s.json", data) == parts


def test_every_wrong_name_of_a_split_is_listed(tmp_path):
    path = tmp_path / "s.json"
    path.write_text('{"train": ["a.png", "a.png", "x"], "val": ["a.png"], "test": ["b.jpg"]}')
    with pytest.raises(
        DataFaults, match=r"no image of the data set.*\(and 3 more faults\)"
    ) as info:
        read_parts(path, named("a.png", "b.png"))
    lines = "\n".join(info.value.faults)
    assert "found 'x'" in lines
    assert "did you mean 'b.png'?" in lines
    assert "in train twice" in lines
    assert "in train and val" in lines


@pytest.mark.parametrize("text", ["[]", '{"trian": []}', '{"train": [1]}', "{"])
def test_file_of_another_form_is_refused(tmp_path, text):
    path = tmp_path / "s.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"s\.json"):
        read_parts(path, named("a.png"))


def test_images_are_taken_in_the_order_of_the_data_set():
    data = named("c", "a", "b")
    assert [image.name for image in take(data, ["b", "c"]).images] == ["c", "b"]
    with pytest.raises(DataFaults) as info:
        take(data, ["a", "x", "y"])
    assert len(info.value.faults) == 2


@pytest.mark.parametrize("folds", [2, 5, 7])
def test_each_image_is_tested_in_one_fold(folds):
    data = numbered(31)
    parts = [fold_images(data, 0, (number, folds), 0.2) for number in range(1, folds + 1)]
    tested = [name for own in parts for name in own.test]
    assert sorted(tested) == sorted(image.name for image in data.images)
    sizes = [len(own.test) for own in parts]
    assert max(sizes) - min(sizes) <= 1
    for own in parts:
        assert len({*own.train, *own.val, *own.test}) == 31
        assert len(own.val) == round(0.2 * (31 - len(own.test)))
    assert fold_images(data, 1, (1, folds), 0.2).test != parts[0].test


def test_images_that_stay_together_are_in_one_part_of_a_fold():
    data, groups = numbered(30), in_rows([3] * 10)
    together = [{data.images[at].name for at in group} for group in groups]
    for number in range(1, 4):
        own = fold_images(data, 0, (number, 3), 0.2, groups)
        for names in together:
            assert any(names <= set(part) for part in (own.train, own.val, own.test))


def test_each_fold_has_images_of_each_class():
    images = tuple(
        LabelledImage(Path(f"{at}.png"), f"{at}.png", (8, 8), (), (at % 4,)) for at in range(40)
    )
    data = DataSet(
        root=Path("set"), format="", task="classify", labels=("a", "b", "c", "d"), images=images
    )
    for number in range(1, 6):
        tested = fold_images(data, 0, (number, 5), 0.2).test
        assert sorted(int(name[:-4]) % 4 for name in tested) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_more_folds_than_groups_are_refused():
    with pytest.raises(DataError, match=r"too few images for 5 folds \(found 4 groups"):
        fold_images(numbered(4), 0, (1, 5), 0.2)
