"""A real MQTT broker for tests, to be killed, frozen and started again, and who listens there."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

DEADLINE_S = 30.0
"""For what is about to come; none is waited for in vain."""


def find_mosquitto() -> str:
    """Path of the broker; skips where there is none."""
    found = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        pytest.skip("mosquitto is missing: apt-get install mosquitto")
    return found


def wait_until(condition: Callable[[], Any], why: str = "nothing came of it") -> Any:
    """What the condition gives once it is true."""
    until_s = time.monotonic() + DEADLINE_S
    while not (given := condition()):
        assert time.monotonic() < until_s, why
        time.sleep(0.005)
    return given


def dropped(stage: Any) -> dict[str, int]:
    """Messages that a sink has lost, by cause."""
    prefix = "dropped_"
    counts = stage.counters().items()
    return {name.removeprefix(prefix): n for name, n in counts if name.startswith(prefix)}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5.0).close()
    except OSError:
        return False
    return True


class Broker:
    """Mosquitto at a port of its own.

    Args:
        folder: for its files.
        remembers: what it knows survives its death.
        options: further lines of its settings.
    """

    def __init__(self, folder: Path, *options: str, remembers: bool = False) -> None:
        self.port = free_port()
        self.log = folder / "mosquitto.log"
        self._settings = folder / "mosquitto.conf"
        lines = [
            f"listener {self.port} 127.0.0.1",
            "user root",
            "max_queued_messages 0",
            f"persistence {str(remembers).lower()}",
            f"persistence_location {folder}/",
            "autosave_on_changes true",
            "autosave_interval 1",
            *(() if any("password_file" in o for o in options) else ("allow_anonymous true",)),
            *options,
        ]
        self._settings.write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Broker:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [find_mosquitto(), "-c", str(self._settings)], stdout=log, stderr=log
            )
        wait_until(lambda: accepts(self.port), f"mosquitto does not start, see {self.log}")
        return self

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


_numbers = itertools.count()


class Heard(NamedTuple):
    topic: str
    text: str
    retained: bool
    """It was there before who listens came."""


class Listener:
    """Keeps all that is published; what comes while it is not connected the broker keeps for it."""

    def __init__(self, broker: Broker, topic: str = "#", **login: Any) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        self.heard: list[Heard] = []
        self._subscribed = threading.Event()
        self.client = Client(
            CallbackAPIVersion.VERSION2,
            f"listener-{next(_numbers)}",
            clean_session=not login.get("keep", False),
        )
        self.client.reconnect_delay_set(0.05, 0.1)
        if "user" in login:
            self.client.username_pw_set(login["user"], login["password"])
        self.client.on_connect = lambda client, *_: client.subscribe(topic, 1)
        self.client.on_subscribe = lambda *_: self._subscribed.set()
        self.client.on_message = lambda _, __, m: self.heard.append(
            Heard(m.topic, m.payload.decode(), m.retain)
        )
        self.client.connect("127.0.0.1", broker.port)
        self.client.loop_start()
        assert self._subscribed.wait(DEADLINE_S)

    def texts(self, topic: str) -> list[str]:
        return [heard.text for heard in list(self.heard) if heard.topic == topic]

    def last(self, topic: str) -> str | None:
        return self.texts(topic)[-1] if self.texts(topic) else None

    def wait_for(self, topic: str, text: str) -> None:
        """Until that is what the topic said last."""
        wait_until(
            lambda: self.last(topic) == text, f"{topic} says {self.last(topic)!r}, not {text!r}"
        )

    def publish(self, topic: str, text: str, retain: bool = False) -> None:
        self.client.publish(topic, text, 1, retain).wait_for_publish(DEADLINE_S)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()
