"""The contract of a stage: its context, and names of an earlier contract."""

import logging

import msgspec
import numpy as np
import pytest

from pipeline.errors import SetupError
from pipeline.frame import Frame
from pipeline.stage import Array, Context, ContractError, Listen, Resources, Source, Stage
from pipeline.testing import ListSink, ListSource, ManualClock, context, run_stages
from tests.builders import graph


def plain(value):
    """An image of one grey."""
    return np.full((4, 6, 3), value, np.uint8)


class Colour(msgspec.Struct, frozen=True):
    name: str


class Size(msgspec.Struct, frozen=True):
    px: int


def test_the_nearest_offer_wins_and_those_before_win_over_those_behind():
    made = Context(
        offers=(Size(1), Colour("near"), Colour("far")), offers_behind=(Colour("later"),)
    )
    assert made.get(Colour) == Colour("near")
    assert made.get_behind(Colour) == Colour("later")
    assert made.get_behind(Size) is None


def test_a_required_offer_that_is_missing_is_refused():
    with pytest.raises(SetupError, match="no stage before or behind it offers Colour; add one"):
        Context().require(Colour)


def test_offers_before_a_stage_differ_from_its_own():
    made = Context(offers=(Colour("own"), Colour("before")), own_offers=1)
    assert made.get(Colour) == Colour("own")
    assert made.get_before(Colour) == Colour("before")
    assert made.get_before(Size) is None


def test_a_class_that_does_not_follow_the_contract_is_refused():
    with pytest.raises(ContractError, match=r"Wrong\.takes: expected a tuple of Array .found"):
        type("Wrong", (Stage,), {"takes": Array("boxes")})
    with pytest.raises(ContractError, match=r"Wrong\.gives: expected a tuple of Array .found"):
        type("Wrong", (Stage,), {"gives": ("boxes",)})
    with pytest.raises(ContractError, match=r"Wrong\.derived: 'x' is not in `gives`; add it there"):
        type("Wrong", (Stage,), {"derived": ("x",)})
    with pytest.raises(
        ContractError, match=r"Wrong\.hides: expected a tuple of str .found 'image'"
    ):
        type("Wrong", (Stage,), {"hides": "image"})
    with pytest.raises(
        ContractError, match=r"Wrong\.hides: 'image' is not in `gives`; add it there"
    ):
        type("Wrong", (Stage,), {"hides": ("image",)})
    for half in ({"gives": (Array("x"),), "derived": ("x",)}, {"derive": lambda self, frame: None}):
        with pytest.raises(ContractError, match="`derived` and `derive` belong together"):
            type("Wrong", (Stage,), half)
    with pytest.raises(ContractError, match="Settings must be a class derived from pipeline"):
        type("Wrong", (Stage,), {"Settings": dict})
    with pytest.raises(ContractError, match="array 'x': unknown dtype 'flaot32'; use a name"):
        Array("x", "flaot32")
    with pytest.raises(
        ContractError, match=r"writes: expected a tuple of Output .found 'out\.txt'"
    ):
        Resources(writes="out.txt")
    with pytest.raises(SetupError, match=r"port: expected a number from 0 to 65535 .found 90000"):
        Listen("127.0.0.1", 90000)


def test_an_array_of_objects_is_refused():
    # Pointers mean nothing in another process: workers died of them.
    with pytest.raises(TypeError, match=r"array 'x': expected numbers .found dtype object"):
        Frame.of().put("x", np.array([None]))


def test_a_missing_array_is_named_with_those_that_are_there():
    with pytest.raises(KeyError, match=r"the frame has no array 'mine' .found boxes, scores"):
        Frame.of(boxes=np.zeros((0, 4)), scores=np.zeros(0))["mine"]


class Liar(Stage):
    gives = (Array("x", "int32", (2,)),)
    ordered = True

    def __init__(self, value, state=b""):
        super().__init__(Stage.Settings(), context())
        self.value, self.saved = value, state

    def process(self, frame):
        if self.value is not None:
            frame.put("x", self.value)

    def state(self, stream):
        return self.saved

    def restore(self, stream, state):
        pass


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        (Liar(None), "gave no array 'x', which it declares"),
        (Liar(np.zeros(2)), r"gave array 'x' as float64 \(2,\), but declares int32 \(2,\)"),
        (Liar(np.zeros(3, np.int32)), r"gave array 'x' as int32 \(3,\), but declares int32 \(2,\)"),
        (Liar(np.zeros(2, np.int32), "text"), r"state: expected bytes .found str"),
    ],
)
def test_the_kit_finds_what_a_worker_would_refuse(stage, words):
    with pytest.raises(ContractError, match=words):
        run_stages([stage], ListSource([plain(1)]))


class Double(Stage):
    gives = (Array("half", "int64", ()), Array("whole", "int64", ()))
    derived = ("whole",)

    def process(self, frame):
        frame.put("half", np.int64(frame.seq))

    def derive(self, frame):
        frame.put("whole", 2 * frame["half"])


def test_the_kit_has_derived_arrays_made():
    stage = Double(Stage.Settings(), context())
    frames = run_stages([stage], ListSource([plain(1)] * 3))
    assert [int(frame["whole"]) for frame in frames] == [0, 2, 4]


def test_a_misspelt_field_of_the_context_is_refused():
    with pytest.raises(TypeError, match=r"confidance: no field of Context, and not an offer"):
        context(confidance=0.3)


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"stage": "front"}, "stages.front"),
        ({"stage": "capture", "stream": "yard"}, "streams.yard"),
    ],
)
def test_messages_of_a_stage_start_with_its_place(fields, where, caplog):
    # F5: two stages of one kind had the same name in the log.
    caplog.set_level(logging.INFO)
    Context(**fields).log.info("%d events", 3)
    assert caplog.messages == [f"{where}: 3 events"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("tally", "counters"),
        ("report", "info"),
        ("apart", "isolated"),
        ("reads", "resources"),
        ("folders", "resources"),
    ],
)
def test_a_name_of_the_earlier_contract_is_refused_with_the_new_one(old, new):
    with pytest.raises(TypeError, match=f"^Mine: `{old}` is now called `{new}`; rename it$"):
        type("Mine", (Stage,), {old: None})


def test_a_constructor_with_facts_is_refused():
    def init(self, settings, facts):
        pass

    with pytest.raises(TypeError, match="`facts` is now called `context`"):
        type("Mine", (Stage,), {"__init__": init})


class Old(Stage):
    @classmethod
    def resolve(cls, settings):
        return {"replicas": 2}


def test_a_resolve_that_returns_a_dictionary_is_refused():
    with pytest.raises(
        SetupError, match=r"stages.old: resolve: expected a Resolved .found dict.; see"
    ):
        graph({"old": {"use": "tests.pipeline.test_stage:Old"}})


def test_an_error_keeps_its_kind_when_its_place_is_added():
    from pipeline.errors import SourceError

    error = SourceError("refused", "unreachable").at("streams.yard")
    assert (str(error), error.kind) == ("streams.yard: refused", "unreachable")


# --- the kit ---


class Brightness(Stage):
    def process(self, frame):
        frame.put("mean", [frame["image"].mean()])


def test_stages_run_without_a_pipeline():
    sink = ListSink()
    frames = run_stages([Brightness(None, context()), sink], ListSource([plain(4), plain(8)], 10.0))
    assert [frame["mean"].tolist() for frame in frames] == [[4.0], [8.0]]
    assert [frame.time_s for frame in frames] == [0.0, pytest.approx(0.1)]
    assert sink.frames == frames


def test_a_clock_moves_only_when_it_is_advanced():
    clock = ManualClock(2.0)
    clock.advance(0.5)
    assert (clock.now_s, clock.now_ns) == (2.5, 2_500_000_000)


def test_a_context_takes_fields_and_offers():
    made = context(streams=("a", "b"), colour=Colour("red"))
    assert made.streams == ("a", "b")
    assert made.require(Colour) == made.get_behind(Colour) == Colour("red")


def test_stages_are_closed_after_an_error():
    closed = []

    class Failing(Stage):
        def process(self, frame):
            raise ValueError("broken")

        def close(self):
            closed.append(True)

    with pytest.raises(ValueError, match="broken"):
        run_stages([Failing(None, context())], ListSource([plain(1)]))
    assert closed == [True]


def test_a_source_says_nothing_about_its_stream_unless_it_offers_it():
    assert Source.resolve(None).offers == ()
