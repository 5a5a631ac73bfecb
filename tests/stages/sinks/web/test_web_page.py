"""The status page as a person sees it: a real run, in a real browser."""

import json
import os
import re
import signal
import socket
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.browser import CHROMIUM, Browser
from tests.processes.runs import CLIP, Run, wait_until

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: chromium)"),
]

TOKEN = "correct-horse-battery"
GRAPH = """\
streams:
{streams}
stages:
  capture: {{{{use: capture}}}}
  boxes:   {{{{use: "tests.processes.stages:Boxes"}}}}
  web:     {{{{use: web, after: boxes, port: {port}, token: {token}, sources: [/]}}}}
  end:     {{{{use: "null", after: boxes}}}}
supervisor: {{{{restarts: 1000, hang_s: 60}}}}
"""
STREAM = "  {name}: {{{{source: {{source}}, mode: live, loop: true}}}}"

CANVAS = "document.querySelector('[data-stream={}] canvas')"
FRAME = f"Number({CANVAS}?.dataset.frame ?? -1)"


class Shown(Run):
    """A run with a status page."""

    def __init__(self, folder: Path, streams=("demo",)) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        listed = "\n".join(STREAM.format(name=name) for name in streams)
        graph = GRAPH.format(streams=listed, port=self.port, token=TOKEN)
        super().__init__(folder, graph=graph)
        self.url = f"http://127.0.0.1:{self.port}/"

    def __enter__(self) -> "Shown":
        self.wait_until(self.is_up)
        return self

    def is_up(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + "healthz", timeout=1) as answer:
                return answer.status == 200
        except OSError:
            return False


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One for all tests that only look."""
    with Shown(tmp_path_factory.mktemp("run")) as run:
        yield run


@pytest.fixture
def own_run(tmp_path):
    with Shown(tmp_path) as run:
        yield run


@pytest.fixture
def browser():
    with Browser() as browser:
        yield browser


def long_clip(path: Path) -> str:
    """A file that is not over before the browser has asked for its pictures."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (320, 240))
    for shade in range(6000):
        writer.write(np.full((240, 320, 3), shade % 256, np.uint8))
    writer.release()
    return str(path)


def state_of(stream: str) -> str:
    return f"document.querySelector('article[data-stream={stream}] .state')?.classList[1]"


def button(label: str) -> str:
    return f"button[aria-label='{label}']"


def test_the_stream_is_shown_live_and_its_ledger_adds_up(run, browser):
    browser.open(run.url)
    first = browser.wait_for(f"{FRAME.format('demo')} >= 0 && {FRAME.format('demo')}")
    browser.wait_for(f"{FRAME.format('demo')} > {first} + 3")
    # What is on the screen is the picture of the clip, and not only an empty frame: windows, in
    # front of which no pedestrian walks.
    found = browser.evaluate(
        f"[...{CANVAS.format('demo')}.getContext('2d').getImageData(340, 40, 64, 64).data]"
    )
    pixels = np.array(found, np.uint8).reshape(64, 64, 4)[..., 2::-1]
    capture = cv2.VideoCapture(str(CLIP))
    clip = capture.read()[1][40:104, 340:404]
    capture.release()
    assert np.abs(pixels.mean((0, 1)) - clip.mean((0, 1))).max() < 15
    assert pixels.std() > 10
    assert browser.evaluate("document.title") == "Eyeline"
    sums = browser.wait_for(
        "(() => { const d = document.querySelector('.sum').dataset;"
        " return Number(d.captured) > 20 && [d.captured, d.sum]; })()"
    )
    assert sums[0] == sums[1]
    text = browser.text()
    for expected in ("● Live", "delivered", "in flight", "all accounted for ✓", "768\u00d7576"):
        assert expected in text
    numbers, captured = browser.evaluate(
        "[[...document.querySelectorAll('.legend b')].map((b) => b.textContent),"
        " document.querySelector('.sum').dataset.captured]"
    )
    assert sum(int(re.sub(r"\D", "", number)) for number in numbers) == int(captured)
    stages = browser.evaluate(
        "[...document.querySelectorAll('.stage')].map((stage) => stage.dataset.stage)"
    )
    assert sorted(stages) == ["boxes", "capture", "end", "web"]
    browser.wait_for(
        "document.querySelector('.stage[data-stage=boxes] .rate').textContent.endsWith('/s')"
    )
    browser.wait_for("document.querySelector('.curve .middle').getAttribute('d')?.includes('L')")
    browser.wait_for("document.querySelectorAll('#events li time').length >= 3")
    assert browser.problems == []


@pytest.mark.parametrize(
    ("captured", "sum_class", "text"),
    [
        (1057, "sum good", "1,000 + 40 + 2 + 5 + 7 + 3 = 1,057: all accounted for \u2713"),
        (1058, "sum bad", "1,000 + 40 + 2 + 5 + 7 + 3 = 1,057, but 1,058 were captured"),
        (0, "sum", "No frames captured yet"),
    ],
)
def test_the_ledger_shows_every_cause_and_its_sum(run, browser, captured, sum_class, text):
    browser.open(run.url)
    browser.wait_for(f"{FRAME.format('demo')} >= 0")
    status = browser.evaluate("fetch('api/status').then((answer) => answer.json())")
    status["streams"][0] |= {
        "captured": captured,
        "delivered": 1000,
        "dropped": {"busy": 40, "stale": 2, "restart": 0},
        "failed": {"poison": 5, "boxes": 7},
        "in_flight": 3,
    }
    browser.evaluate("receive = () => {}")  # to nothing newer
    browser.evaluate(f"receiveStatus({json.dumps(status)}, {{}})")
    assert browser.evaluate("document.querySelector('.sum').className") == sum_class
    assert browser.evaluate("document.querySelector('.sum').textContent") == text
    legend = browser.evaluate(
        "[...document.querySelectorAll('.legend li')].map((li) => li.textContent)"
    )
    assert legend == [
        "delivered 1,000",
        "dropped: busy 40",
        "dropped: stale 2",
        "failed: poison 5",
        "failed: boxes 7",
        "in flight 3",
    ]
    widths = browser.evaluate(
        "[...document.querySelectorAll('.bar span')].map((part) => Number(part.style.flexGrow))"
    )
    assert widths == [1000, 40, 2, 5, 7, 3]


@pytest.mark.parametrize("width", [320, 390, 768])
def test_on_a_phone_nothing_has_to_be_scrolled_sideways(run, browser, width, tmp_path):
    browser.resize(width, 844, mobile=True)
    browser.open(run.url)
    browser.wait_for(f"{FRAME.format('demo')} >= 0")
    browser.wait_for("document.querySelectorAll('.stage').length == 4")
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    sticking_out = browser.evaluate(
        "[...document.querySelectorAll('body *')].filter((e) => !e.closest('svg')"
        " && e.checkVisibility() && e.getBoundingClientRect().right > innerWidth + 1)"
        ".map((e) => e.outerHTML.slice(0, 80))"
    )
    assert sticking_out == []
    shot = cv2.imdecode(np.frombuffer(browser.screenshot(), np.uint8), cv2.IMREAD_COLOR)
    assert shot.shape == (844, width, 3)
    assert shot.std() > 20  # a picture is on it
    small = browser.evaluate(
        "[...document.querySelectorAll('button')].filter((b) => b.checkVisibility())"
        ".map((b) => b.getBoundingClientRect().height).filter((h) => h < 36)"
    )
    assert small == []  # too small for a finger


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read(run, browser, scheme):
    browser.prefer(scheme)
    browser.open(run.url)
    browser.wait_for(f"{FRAME.format('demo')} >= 0")
    browser.wait_for("document.querySelectorAll('#events li time').length >= 3")
    too_faint = browser.evaluate(CONTRAST)
    assert too_faint == []
    ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(244, 245, 247)", "dark": "rgb(18, 22, 28)"}[scheme]


CONTRAST = """
(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length == 3 || colour[3] == 1) return colour;
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const e of document.querySelectorAll("body *")) {
    const text = [...e.childNodes].some((n) => n.nodeType == 3 && n.data.trim());
    if (!text || !e.checkVisibility() || e.closest(".cover, script, noscript")) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faint.push(`${ratio.toFixed(2)}: ${e.outerHTML.slice(0, 90)}`);
  }
  return faint;
})()
"""


def test_a_stream_is_added_paused_resumed_and_removed_after_the_token_was_asked_for_once(
    own_run, browser, tmp_path
):
    clip = long_clip(tmp_path / "long.avi")
    browser.open(own_run.url)
    browser.wait_for(f"{FRAME.format('demo')} >= 0")
    browser.click(button("Pause demo"))
    browser.wait_for("document.querySelector('#token-dialog').open")
    browser.type("not the token")
    browser.press("Enter")
    browser.wait_for("document.querySelector('#token-why').textContent.includes('not accepted')")
    browser.type(TOKEN)
    browser.press("Enter")
    browser.wait_for(f"{state_of('demo')} == 'paused'")
    assert "Paused" in browser.evaluate("document.querySelector('.cover').textContent")
    browser.click(button("Resume demo"))
    browser.wait_for(f"{state_of('demo')} == 'live'")

    browser.click("#add-open")
    browser.wait_for("document.querySelector('#add-dialog').open")
    browser.type("late")
    browser.press("Tab")
    browser.type(str(CLIP) + ".none")
    browser.press("Enter")
    browser.wait_for(
        "document.querySelector('#add-dialog .error').textContent.includes('no such file')"
    )
    assert browser.evaluate("document.querySelector('#add-name').value") == "late"
    browser.evaluate(f"document.querySelector('#add-source').value = {clip!r}")
    browser.click("#add-dialog button[type=submit]")
    browser.wait_for("document.querySelectorAll('#streams article').length == 2")
    browser.evaluate("document.querySelector('[data-stream=late]').scrollIntoView()")
    browser.wait_for(f"{FRAME.format('late')} >= 0")

    browser.click(button("Remove late"))
    browser.wait_for("document.querySelector('#remove-dialog').open")
    browser.press("Escape")
    browser.wait_for("!document.querySelector('#remove-dialog').open")
    browser.click(button("Remove late"))
    browser.wait_for("document.querySelector('#remove-dialog').open")
    browser.click("#remove-dialog button[type=submit]")
    browser.wait_for("document.querySelectorAll('#streams article').length == 1")
    assert not browser.evaluate("document.querySelector('#token-dialog').open")
    assert browser.evaluate("Object.keys(localStorage).length") == 0
    assert TOKEN not in own_run.stderr
    # The one wrong token, and the stream that could not be added.
    assert [problem.split("status of ")[1][:3] for problem in browser.problems] == ["401", "400"]


def test_a_lost_connection_is_shown_plainly_and_comes_back_by_itself(own_run, browser):
    browser.open(own_run.url)
    browser.wait_for(f"{FRAME.format('demo')} >= 0")
    pid = own_run.workers()["web"]
    os.kill(pid, signal.SIGSTOP)  # it neither answers nor goes
    browser.wait_for("document.querySelector('#notice').checkVisibility()")
    assert "connection to Eyeline is lost" in browser.text()
    assert browser.evaluate("document.querySelector('#main').classList.contains('stale')")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: own_run.workers().get("web", pid) != pid)
    browser.wait_for("!document.querySelector('#notice').checkVisibility()")
    last = browser.evaluate(FRAME.format("demo"))
    browser.wait_for(f"{FRAME.format('demo')} > {last}")
    browser.wait_for(
        "[...document.querySelectorAll('#events li')]"
        ".some((li) => li.textContent.includes('died, restarted')) || "
        "document.querySelector('[data-stage=web] .trouble').textContent.includes('restarted')"
    )
    sums = browser.evaluate("Object.values(document.querySelector('.sum').dataset)")
    assert sums[0] == sums[1]


def test_sixteen_streams_are_watched_as_far_as_they_are_on_the_screen(tmp_path, browser):
    names = [f"cam{number:02}" for number in range(16)]
    browser.resize(1280, 900)
    with Shown(tmp_path, names) as run:
        browser.open(run.url)
        browser.wait_for("document.querySelectorAll('#streams article').length == 16")
        browser.wait_for(f"{FRAME.format('cam00')} >= 0")
        assert browser.evaluate(FRAME.format("cam15")) == -1  # far below: not even encoded
        browser.evaluate("document.querySelector('[data-stream=cam15]').scrollIntoView()")
        browser.wait_for(f"{FRAME.format('cam15')} >= 0")
        browser.wait_for(
            "[...document.querySelectorAll('.sum')].every((sum) => sum.dataset.captured > 0"
            " && sum.dataset.captured == sum.dataset.sum)"
        )
        assert browser.evaluate("document.documentElement.scrollWidth") == 1280
        assert browser.problems == []


def test_names_that_streams_bring_are_text(run, browser):
    """Whatever a stage reports is shown as it is, and never becomes part of the page."""
    browser.open(run.url)
    browser.wait_for(f"{FRAME.format('demo')} >= 0")
    browser.evaluate(
        "receiveEvents([{number: 1e9, at: new Date().toISOString(), stream: '<b>x</b>',"
        " label: '<img src=x onerror=alert(1)>', id: 1, text: 'appeared'}])"
    )
    assert "<img src=x onerror=alert(1)> 1 appeared" in browser.text()
    assert browser.evaluate("document.querySelectorAll('#events img, #events b').length") == 0
