"""Arrays of a graph: what is hidden from whom, and the room of a slot."""

import pytest

from pipeline.errors import GraphError
from pipeline.graph.arrays import MIB
from pipeline.stage import Array, Stage
from tests.builders import IMAGE, graph


class Hide(Stage):
    """Puts another image in the place of the captured one."""

    takes = (IMAGE,)
    gives = (IMAGE,)
    hides = ("image",)


class Show(Stage):
    takes = (IMAGE,)


class MayShow(Stage):
    takes = (Array("image", "uint8", (None, None, 3), optional=True),)


class Find(Stage):
    takes = (IMAGE,)
    gives = (Array("boxes"),)


class Tell(Stage):
    takes = (Array("boxes", optional=True),)


HERE = "tests.pipeline.graph.test_arrays"
REGISTRY = {kind.__name__.lower(): f"{HERE}:{kind.__name__}" for kind in (Hide, Show, Find, Tell)}
REGISTRY["mayshow"] = f"{HERE}:MayShow"
IMAGE_BYTES = 7680 * 4320 * 3


def made(*stages):
    """A graph of stages written as "name use after"; "" in place of `after`: the one above."""
    tables = {}
    for line in stages:
        name, use, *after = line.split()
        tables[name] = {"use": use} | ({"after": after[0]} if after else {})
    return graph(tables, registry=REGISTRY, max_frame="7680x4320")


@pytest.mark.parametrize(
    ("stages", "shown"),
    [
        (["f find", "h hide", "s show f"], "s"),
        (["f find", "s show f", "h hide f", "t tell"], "s"),
        (["f find", "h hide", "m mayshow f"], "m"),
        (["f find", "h hide f", "t tell f", "s show t"], "s"),
        # Not the last of its branch, but what it takes goes into nothing that it gives.
        (["s show", "f find", "h hide", "t tell"], "s"),
        # A last stage, whatever it gives.
        (["g find", "h hide capture", "t tell"], "g"),
    ],
)
def test_a_stage_that_would_show_what_another_hides_is_refused(stages, shown):
    with pytest.raises(GraphError) as refused:
        made(*stages)
    words = str(refused.value)
    assert words.startswith(f"test.yaml: stages.{shown}: takes 'image' as it is before stages.h")
    assert words.endswith("; set `after: h`")
    assert "\n" not in words


@pytest.mark.parametrize(
    "stages",
    [
        ["f find", "h hide", "s show", "t tell f"],
        ["f find", "h hide", "t tell", "s show t", "m mayshow h"],
        # Each branch hides for itself.
        ["f find", "h hide f", "s show h", "i hide f", "m show i"],
        ["f find", "h hide", "i hide", "s show"],
        ["f find", "h hide"],
    ],
)
def test_stages_behind_the_one_that_hides_are_accepted(stages):
    made(*stages)


def test_a_last_stage_of_another_branch_does_not_get_the_array():
    nodes = {node.name: node for node in made("f find", "h hide", "s show", "t tell f").nodes}
    assert {name: node.withheld for name, node in nodes.items() if node.withheld} == {
        "t": ("image",)
    }


def test_without_a_stage_that_hides_nothing_is_withheld():
    assert not any(node.withheld for node in made("f find", "s show", "t tell f").nodes)


@pytest.mark.parametrize(
    ("stages", "images", "rooms"),
    [
        (["f find", "s show"], 1, 1),
        (["f find", "h hide", "s show"], 2, 2),
        (["f find", "h hide", "i hide", "s show"], 3, 3),
        # The other branch adds no array, and takes no part of the room.
        (["f find", "h hide", "t tell f"], 2, 2),
        # The room behind f is divided by two: that of h must be as large as an image.
        (["f find", "h hide f", "g find f", "t tell g"], 2, 3),
        (["f find", "h hide f", "i hide f", "j hide i"], 4, 5),
    ],
)
def test_a_slot_has_room_for_each_image_of_a_frame(stages, images, rooms):
    found = made(*stages)
    assert found.images == images
    room = found.slot_bytes - rooms * IMAGE_BYTES
    assert 40 * MIB <= room < 41 * MIB
