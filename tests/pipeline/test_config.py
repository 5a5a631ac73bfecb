"""Settings: what is accepted, and in what words the rest is refused."""

import pytest

from pipeline.config import SupervisorSettings, check, did_you_mean, load, override
from pipeline.errors import ConfigError
from tests.builders import ROOT

GOOD = """\
streams:
  yard: {source: clip.mp4}
stages:
  capture: {use: capture}
  nms: {use: nms, min_score: 0.4}
"""


def loaded(tmp_path, text, name="my.yaml"):
    (tmp_path / name).write_text(text)
    return load(tmp_path / name)


def checked(tmp_path, text):
    return check(loaded(tmp_path, text), "my.yaml")


def refusal(call, *args):
    with pytest.raises(ConfigError) as caught:
        call(*args)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_minimal_file_gets_the_defaults(tmp_path):
    config = checked(tmp_path, GOOD)
    assert config.stages["nms"] == {"use": "nms", "min_score": 0.4}
    assert config.placement == "auto"
    assert config.max_frame == "3840x2160"
    assert config.supervisor == SupervisorSettings()
    assert config.supervisor.hang_s > 0


def test_settings_cannot_be_changed(tmp_path):
    config = checked(tmp_path, GOOD)
    with pytest.raises(AttributeError):
        config.placement = "separate"


def test_the_order_of_the_stages_is_kept(tmp_path):
    names = [f"s{i}" for i in (5, 3, 9, 1)]
    text = GOOD + "".join(f"  {name}: {{use: nms}}\n" for name in names)
    assert list(checked(tmp_path, text).stages) == ["capture", "nms", *names]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_file_is_accepted(path, monkeypatch):
    monkeypatch.setenv("YARD_URL", "rtsp://user:secret@camera/stream")
    written = load(path)
    config = check(written, path.name)
    assert config.stages == written["stages"]
    assert list(config.streams) == list(written["streams"])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("plcement: auto", "my.yaml: plcement: unknown key; did you mean 'placement'?"),
        (
            "zzz: 1",
            "my.yaml: zzz: unknown key; known: confidence, max_frame, placement, stages, streams, "
            "supervisor",
        ),
        (
            "supervisor: {hang: 3}",
            "my.yaml: supervisor.hang: unknown key; did you mean 'hang_s'?",
        ),
        (
            "placement: apart",
            "my.yaml: placement: expected one of auto, separate, found 'apart'",
        ),
        (
            "supervisor: {restarts: -1}",
            "my.yaml: supervisor.restarts: expected `int` >= 0, found -1",
        ),
        (
            "supervisor: {hang_s: 0}",
            "my.yaml: supervisor.hang_s: expected `float` > 0.0, found 0",
        ),
        (
            "supervisor: {hang_s: soon}",
            "my.yaml: supervisor.hang_s: expected `float`, got `str`",
        ),
        (
            "supervisor: {restarts: 1.5}",
            "my.yaml: supervisor.restarts: expected `int`, got `float`",
        ),
        ("supervisor: [1]", "my.yaml: supervisor: expected `object`, got `array`"),
        ("confidence: 1.5", "my.yaml: confidence: expected `float` <= 1.0, found 1.5"),
        ("confidence: high", "my.yaml: confidence: expected `float | null`, got `str`"),
        ("max_frame: 4k", "my.yaml: max_frame: expected `str` matching regex"),
    ],
)
def test_a_wrong_top_level_key_or_value_is_refused(more, words, tmp_path):
    assert refusal(checked, tmp_path, GOOD + more + "\n").startswith(words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stages: {a: {use: b}}", "my.yaml: streams: missing"),
        ("streams: {a: {source: b}}", "my.yaml: stages: missing"),
        ("streams: {}\nstages: {a: {use: b}}", "streams: expected at least one, found none"),
        ("streams: {a: {source: b}}\nstages: {}", "stages: expected at least one, found none"),
        ("streams: {a: }\nstages: {}", "my.yaml: streams.a: expected settings, found nothing"),
        (
            "streams: {a: {}}\nstages: {n: nms}",
            "my.yaml: stages.n: expected settings, found 'nms'",
        ),
        (
            "streams: {1st: {}}\nstages: {}",
            "my.yaml: streams: '1st' is not a valid name; use letters, digits, - and _",
        ),
        ("streams: {a b: {}}\nstages: {}", "my.yaml: streams: 'a b' is not a valid name"),
        ("streams: {1: {}}\nstages: {}", "my.yaml: streams: 1 is not a valid name"),
        ("streams: {}\nstages: {null: {}}", "my.yaml: stages: nothing is not a valid name"),
        ("streams: {true: {}}\nstages: {}", "my.yaml: streams: True is not a valid name"),
    ],
)
def test_a_file_without_what_it_needs_is_refused(text, words, tmp_path):
    assert words in refusal(checked, tmp_path, text)


@pytest.mark.parametrize("table", ["streams", "stages"])
def test_a_name_with_a_line_break_is_refused(table, tmp_path):
    text = GOOD.replace("yard:", '"yard\\n":') if table == "streams" else GOOD
    text = text.replace("nms:", '"nms\\n":') if table == "stages" else text
    assert "is not a valid name" in refusal(checked, tmp_path, text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "streams: {a: {}}\nstreams: {b: {}}",
            "my.yaml: line 2, column 1: streams is given twice; names must differ",
        ),
        (
            "stages:\n  nms: {use: nms}\n  nms: {use: nms}",
            "my.yaml: line 3, column 3: nms is given twice; names must differ",
        ),
        (
            "stages:\n  nms: {use: nms, min_score: 1, min_score: 2}",
            "my.yaml: line 2, column 33: min_score is given twice; names must differ",
        ),
        ("streams: {a: [}", "my.yaml: line 1, column 15: "),
        ("streams:\n\t- a", "my.yaml: line 2, column 1: "),
        ("a: b: c", "my.yaml: line 1, column 5: mapping values are not allowed"),
        ("x: !!python/object:os.system {}", "my.yaml: line 1, column 4: a tag (!) cannot be used"),
        ("", "my.yaml: expected `streams:` and `stages:`, found nothing"),
        ("just words", "my.yaml: expected `streams:` and `stages:`, found 'just words'"),
        ("- a\n- b", "my.yaml: expected `streams:` and `stages:`, found a list"),
    ],
)
def test_a_file_that_is_not_settings_is_refused_with_the_line(text, words, tmp_path):
    assert words in refusal(loaded, tmp_path, text)


def test_a_merged_key_may_be_given_again(tmp_path):
    raw = loaded(tmp_path, "base: &b {a: 1, b: 2}\nuse: {<<: *b, a: 3}\n")
    assert raw["use"] == {"a": 3, "b": 2}


def test_a_file_with_recursive_or_growing_aliases_is_refused(tmp_path):
    assert "an alias (*) inside its own anchor (&)" in refusal(loaded, tmp_path, "a: &a {b: *a}")
    assert "an alias (*) inside its own anchor (&)" in refusal(loaded, tmp_path, "a: &a {<<: *a}")
    words = "more than 10000 values, with those of its aliases"
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for i in range(12):
        rows.append(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]")
    assert words in refusal(loaded, tmp_path, "\n".join(rows))


def test_a_variable_in_braces_without_quotes_is_explained(tmp_path):
    words = refusal(loaded, tmp_path, "streams: {yard: {source: ${YARD_URL}}}")
    assert "(${NAME} inside { } needs quotes: '${NAME}')" in words


def test_a_missing_file_or_one_that_is_not_text_is_refused(tmp_path):
    assert refusal(load, tmp_path / "no.yaml").endswith(
        "no.yaml: cannot be read: No such file or directory"
    )
    assert refusal(load, tmp_path).endswith("cannot be read: is a directory")
    (tmp_path / "clip.mp4").write_bytes(b"\xff\xfe\x00\x81")
    assert refusal(load, tmp_path / "clip.mp4").endswith("cannot be read: not a text file in UTF-8")


# --- ${VAR} ---


def test_variables_come_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HOST", "cam.local")
    monkeypatch.setenv("EMPTY", "")
    raw = loaded(tmp_path, "a: {b: 'rtsp://${HOST}/${EMPTY}s', c: ['${HOST}'], d: $HOST}\n")
    assert raw["a"] == {"b": "rtsp://cam.local/s", "c": ["cam.local"], "d": "$HOST"}


def test_a_value_of_the_environment_is_always_text(tmp_path, monkeypatch):
    monkeypatch.setenv("X", "{a: ${Y}}")
    assert loaded(tmp_path, "a: ${X}\n") == {"a": "{a: ${Y}}"}


@pytest.mark.parametrize(
    ("text", "key"),
    [("a: {b: '${NOT_SET_X}'}", "a.b"), ("a: ['x', '${NOT_SET_X}']", "a[1]")],
)
def test_a_variable_that_is_not_set_is_refused_with_its_key(text, key, tmp_path, monkeypatch):
    monkeypatch.delenv("NOT_SET_X", raising=False)
    words = f"my.yaml: {key}: environment variable NOT_SET_X is not set"
    assert refusal(loaded, tmp_path, text).endswith(words)


def test_two_dollars_escape_a_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("X", "x")
    raw = loaded(tmp_path, "a: ['pa$${ss', '$${X}', '$$${X}', '$$$${X}', $X, $$, '${X}$']\n")
    assert raw["a"] == ["pa${ss", "${X}", "$${X}", "$$${X}", "$X", "$$", "x$"]


# --- --set ---


def raw():
    return {
        "streams": {"yard": {"source": "clip.mp4"}},
        "stages": {"capture": {"use": "capture"}, "nms": {"use": "nms", "min_score": 0.4}},
    }


@pytest.mark.parametrize(
    ("assignment", "where", "value"),
    [
        ("nms.min_score=0.7", ("stages", "nms", "min_score"), 0.7),
        ("nms.classes=[person, car]", ("stages", "nms", "classes"), ["person", "car"]),
        ("nms.name=a=b", ("stages", "nms", "name"), "a=b"),
        ("nms.min_score=", ("stages", "nms", "min_score"), None),
        ("nms.deep.er=1", ("stages", "nms", "deep", "er"), 1),
        ("stages.nms.min_score=1", ("stages", "nms", "min_score"), 1),
        ("supervisor.hang_s=9", ("supervisor", "hang_s"), 9),
        ("streams.yard.loop=true", ("streams", "yard", "loop"), True),
        ("streams.new.source=x.mp4", ("streams", "new", "source"), "x.mp4"),
        ("placement=separate", ("placement",), "separate"),
    ],
)
def test_a_setting_can_be_replaced_from_the_command_line(assignment, where, value):
    changed = raw()
    override(changed, assignment)
    found = changed
    for part in where:
        found = found[part]
    assert found == value
    assert changed["stages"]["nms"]["use"] == "nms"


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("nms", "--set: expected STAGE.KEY=VALUE, as in"),
        ("", "--set: expected STAGE.KEY=VALUE"),
        ("=", "--set: expected STAGE.KEY=VALUE"),
        ("=1", "--set: expected STAGE.KEY=VALUE"),
        ("nms.=1", "--set: expected STAGE.KEY=VALUE"),
        (".min_score=1", "--set: expected STAGE.KEY=VALUE"),
        ("nms..a=1", "--set: expected STAGE.KEY=VALUE"),
        ("a b.c=1", "--set: expected STAGE.KEY=VALUE"),
        ("rtsp://admin:pw@cam/x?a=1", "--set: expected STAGE.KEY=VALUE"),
        ("stages=1", "--set stages: expected stages.NAME.KEY=VALUE, found stages alone"),
        ("streams={a: 1}", "--set streams: expected streams.NAME.KEY=VALUE"),
        ("nms.min_score=!!int x", "--set nms.min_score: line 1, column 1: expected an integer"),
        ("nms.min_score=!tag x", "--set nms.min_score: line 1, column 1: a tag (!) cannot be"),
        ("nms.min_score=*x", "--set nms.min_score: line 1, column 1: found undefined alias"),
        ("nmss.min_score=1", "no stage is named 'nmss'; did you mean 'nms'?"),
        ("foo.bar=1", "--set foo.bar: no stage is named 'foo'; known: capture, nms"),
        ("nms.min_score=[1", "--set nms.min_score: line 2, column 1: did not find"),
        (
            "nms.min_score.deep=1",
            "--set nms.min_score.deep: expected 'min_score' to be a table, found one value",
        ),
    ],
)
def test_an_invalid_assignment_is_refused(assignment, words):
    assert words in refusal(override, raw(), assignment)


def test_an_unknown_top_level_key_from_set_is_refused_by_the_check():
    changed = raw()
    override(changed, "zzz=1")
    assert "command: zzz: unknown key" in refusal(check, changed, "command")


# --- words ---


def test_a_similar_word_is_suggested_or_all_known_ones():
    assert did_you_mean("detecter", ["nms", "detector"]) == "; did you mean 'detector'?"
    assert did_you_mean("foo", ["nms", "detector"]) == "; known: detector, nms"
    assert did_you_mean("foo", []) == ""
