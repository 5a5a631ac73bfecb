"""A real browser without a screen: headless Chromium, driven by its DevTools protocol."""

import asyncio
import base64
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DEADLINE_S = 30.0
SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--hide-scrollbars",
    "--lang=en-US",
    "--no-first-run",
    "--remote-debugging-port=0",
)


class Browser:
    """One page. `with Browser() as browser: browser.open(url)`."""

    def __init__(self, width: int = 1280, height: int = 900) -> None:
        self.problems: list[str] = []
        """Errors of scripts, of loading, and of the content security policy."""
        self._size = (width, height)
        self._ids = 0

    def __enter__(self) -> "Browser":
        self._folder = tempfile.mkdtemp(prefix="eyeline-browser-")
        self._process = subprocess.Popen(
            [CHROMIUM, *SWITCHES, f"--user-data-dir={self._folder}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": self._folder},
            start_new_session=True,
        )
        self._loop = asyncio.new_event_loop()
        try:
            self._do(self._connect())
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
            self.resize(*self._size)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if hasattr(self, "_socket"):
                self._do(self._leave())
        finally:
            self._loop.close()
            try:
                # Its helpers too, which may outlive it and write into the folder.
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self._process.wait(DEADLINE_S)
            shutil.rmtree(self._folder, ignore_errors=True)

    def call(self, method: str, **parameters: object) -> dict:
        """One command of the protocol; its result."""
        return self._do(self._call(method, parameters))

    def open(self, url: str) -> None:
        """Go to a page, and wait until its scripts have run."""
        found = self.call("Page.navigate", url=url)
        assert "errorText" not in found, found
        self.wait_for("document.readyState == 'complete'")

    def resize(self, width: int, height: int, mobile: bool = False, scale: float = 1) -> None:
        """Take the screen of another device."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=mobile,
        )

    def prefer(self, scheme: str) -> None:
        """light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def evaluate(self, script: str) -> object:
        """The value of an expression in the page."""
        found = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, script: str, timeout_s: float = DEADLINE_S) -> object:
        """The value of an expression as soon as it is true."""
        until = time.monotonic() + timeout_s
        while not (value := self.evaluate(script)):
            assert time.monotonic() < until, f"never true: {script}\n{self.text()}"
            self._do(asyncio.sleep(0.05))
        return value

    def text(self) -> str:
        """What can be read on the page."""
        return str(self.evaluate("document.body?.innerText"))

    def click(self, selector: str) -> None:
        """Click on an element where it is, as a person would."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).scrollIntoView()")
        x, y = self.evaluate(
            f"(() => {{ const r = document.querySelector({json.dumps(selector)})"
            ".getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """Press a key, by its name: "Tab", "Enter", "Escape"."""
        code = {"Tab": 9, "Enter": 13, "Escape": 27}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            more = text if kind == "keyDown" else {}
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                **more,
            )

    def screenshot(self, path: Path | None = None, whole: bool = False) -> bytes:
        """The screen, or the whole page, as PNG."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        png = base64.b64decode(found["data"])
        if path is not None:
            path.write_bytes(png)
        return png

    def _do(self, work):
        return self._loop.run_until_complete(asyncio.wait_for(work, DEADLINE_S))

    async def _connect(self) -> None:
        port_file = Path(self._folder, "DevToolsActivePort")
        until = time.monotonic() + DEADLINE_S
        while not (port_file.exists() and port_file.read_text().count("\n")):
            assert self._process.poll() is None, "the browser has ended"
            assert time.monotonic() < until, "the browser does not start"
            await asyncio.sleep(0.02)
        port = port_file.read_text().splitlines()[0]
        self._session = aiohttp.ClientSession()
        pages: list[dict] = []
        while not pages:
            async with self._session.get(f"http://127.0.0.1:{port}/json") as answer:
                pages = [page for page in await answer.json() if page["type"] == "page"]
        self._socket = await self._session.ws_connect(
            pages[0]["webSocketDebuggerUrl"], max_msg_size=0
        )

    async def _leave(self) -> None:
        try:
            await self._call("Browser.close", {})
        except (ConnectionError, AssertionError):
            pass  # it has gone already
        await self._session.close()

    async def _call(self, method: str, parameters: dict) -> dict:
        self._ids += 1
        await self._socket.send_json({"id": self._ids, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive()
            assert message.type is aiohttp.WSMsgType.TEXT, f"{method}: the browser has gone"
            told = json.loads(message.data)
            if told.get("id") == self._ids:
                assert "error" not in told, (method, told["error"])
                return told["result"]
            self._note(told)

    def _note(self, event: dict) -> None:
        if event.get("method") == "Runtime.exceptionThrown":
            self.problems.append(event["params"]["exceptionDetails"]["exception"]["description"])
        elif event.get("method") == "Log.entryAdded":
            entry = event["params"]["entry"]
            if entry["level"] == "error":
                self.problems.append(f"{entry['text']} {entry.get('url', '')}")
