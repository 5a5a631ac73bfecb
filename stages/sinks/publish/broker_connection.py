"""A connection to an MQTT broker, driven by the thread that sends."""

from __future__ import annotations

import select
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from stages.sinks.publish.broker_address import Address
from stages.sinks.publish.mqtt_settings import MqttSettings
from stages.sinks.publish.publisher import Unreachable
from stages.sinks.publish.tls import connect_error, tls_context
from stages.sinks.publish.topics import OFFLINE
from stages.sinks.publish.wake import Wake

if TYPE_CHECKING:
    from paho.mqtt.client import Client

CONNECT_S = 5.0
ANSWER_S = 10.0
"""A broker that confirms nothing for this time counts as unreachable."""
MAX_IN_FLIGHT = 20
"""Unconfirmed messages in flight; brokers disconnect a client that has many."""
SHORT_LIFE_S = 5.0
"""Repeated connections that last no longer are a sign of two clients with one id."""


class BrokerConnection:
    """A connection, and the messages in flight on it. Not for several threads.

    Args:
        settings: settings of the sink.
        address: address of the broker.
        client_id: client id of this client.
        will_topic: topic that says offline when the connection is lost.
        wake: ends the wait for the broker.
        on_message: called with topic, text and whether it was retained.
    """

    def __init__(
        self,
        settings: MqttSettings,
        address: Address,
        client_id: str,
        will_topic: str,
        wake: Wake,
        on_message: Callable[[str, str, bool], None],
    ) -> None:
        self._settings, self._address, self._client_id = settings, address, client_id
        self._will_topic, self._wake, self._on_text = will_topic, wake, on_message
        self._client: Client | None = None
        self._refusal: str | None = None
        """Answer of the broker to the connect; empty: accepted; None: none yet."""
        self._lost = ""
        """Why the connection was lost."""
        self._connected_s = 0.0
        self._short_lives = 0
        self._in_flight: deque[tuple[int, int]] = deque()
        """Messages: number of the broker, number of the outbox."""
        self._states_in_flight: set[int] = set()
        self._confirmed: set[int] = set()
        self._progress_s = 0.0
        """Monotonic time of the last confirmation, or of the first message in flight."""

    @property
    def is_open(self) -> bool:
        """Whether there is a connection."""
        return self._client is not None

    @property
    def has_states_in_flight(self) -> bool:
        """Whether the broker has not confirmed a state yet."""
        return bool(self._states_in_flight)

    @property
    def has_confirmations(self) -> bool:
        """Whether there are confirmations for `take_confirmations`."""
        return bool(self._confirmed)

    @property
    def room(self) -> int:
        """Number of messages that may be sent now."""
        return max(0, MAX_IN_FLIGHT - len(self._in_flight) - len(self._states_in_flight))

    def open(self) -> None:
        """Connect.

        Raises:
            Unreachable: the broker does not answer, or refuses.
        """
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

        settings = self._settings
        client = Client(
            CallbackAPIVersion.VERSION2,
            self._client_id,
            protocol=MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        client.connect_timeout = CONNECT_S
        client.max_inflight_messages_set(0)  # limited here
        if settings.user:
            client.username_pw_set(settings.user, settings.password or None)
        if self._address.tls:
            client.tls_set_context(tls_context(settings.ca, settings.certificate, settings.key))
        client.will_set(self._will_topic, OFFLINE, settings.qos, retain=True)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        self._refusal, self._lost = None, ""
        failure = ""
        try:
            client.connect(self._address.host, self._address.port, settings.keepalive_s)
        except (OSError, ValueError) as error:
            failure = connect_error(error, CONNECT_S)
        if failure:  # outside of the except: the error keeps the socket of the client open
            raise Unreachable(failure)
        self._client = client
        self._await_answer()
        self._connected_s = time.monotonic()

    def subscribe(self, topics: Sequence[str]) -> None:
        """Subscribe to topics; a broker may forbid it, which is no error."""
        assert self._client is not None
        self._client.subscribe([(topic, 0) for topic in topics])

    def publish_message(self, number: int, topic: str, body: bytes) -> None:
        """Send a message of the outbox."""
        if not self._in_flight:
            self._progress_s = time.monotonic()
        self._in_flight.append((self._publish(topic, body, retain=False), number))

    def publish_state(self, topic: str, text: str, retain: bool) -> None:
        """Send a state."""
        self._states_in_flight.add(self._publish(topic, text.encode(), retain))

    def take_confirmations(self) -> tuple[int, int]:
        """Return how many messages were confirmed, and the number of the last; 0: none.

        Raises:
            Unreachable: the broker confirms nothing.
        """
        count = last = 0
        if self._confirmed:
            self._progress_s = time.monotonic()
            self._states_in_flight -= self._confirmed
            # Usually in order, but not always.
            while self._in_flight and self._in_flight[0][0] in self._confirmed:
                mid, last = self._in_flight.popleft()
                self._confirmed.discard(mid)
                count += 1
            self._confirmed &= {mid for mid, _ in self._in_flight}
        if self._in_flight and time.monotonic() - self._progress_s > ANSWER_S:
            raise Unreachable(f"confirms nothing for {ANSWER_S:.0f} s")
        return count, last

    def poll(self, timeout_s: float) -> None:
        """Read and write until there is something to do, or `wake` is set.

        Raises:
            Unreachable: the connection was lost.
        """
        import ssl

        client = self._client
        assert client is not None
        connection = client.socket()
        if connection is None:
            raise Unreachable(self._reason())
        if isinstance(connection, ssl.SSLSocket) and connection.pending():
            timeout_s = 0.0  # TLS has read more than it returned
        poller = select.poll()
        events = select.POLLIN | (select.POLLOUT if client.want_write() else 0)
        poller.register(connection.fileno(), events)
        poller.register(self._wake.fileno(), select.POLLIN)
        ready = dict(poller.poll(round(timeout_s * 1000)))
        if ready.pop(self._wake.fileno(), 0):
            self._wake.clear()
        if ready or timeout_s == 0.0:
            client.loop_read()
        if client.want_write():
            client.loop_write()
        client.loop_misc()
        if self._lost or client.socket() is None:
            raise Unreachable(self._reason())

    def close(self, goodbye_by_s: float | None) -> None:
        """Disconnect.

        Args:
            goodbye_by_s: monotonic time until which to say offline and disconnect in order; None:
                close at once, so that the broker publishes the last will.
        """
        self._in_flight.clear()
        self._states_in_flight.clear()
        self._confirmed.clear()
        if self._client is not None and goodbye_by_s is not None and not self._lost:
            self._say_goodbye(goodbye_by_s)
        client, self._client = self._client, None
        if client is not None:
            connection = client.socket()
            if connection is not None:
                connection.close()

    def _await_answer(self) -> None:
        until_s = time.monotonic() + CONNECT_S
        while self._refusal is None:
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                raise Unreachable(f"accepts connections, but no answer within {CONNECT_S:.0f} s")
            self.poll(left_s)
        if self._refusal:
            raise Unreachable(self._refusal)

    def _publish(self, topic: str, body: bytes, retain: bool) -> int:
        """Send a message, and return the number under which it will be confirmed."""
        if self._client is None or self._lost:
            raise Unreachable(self._reason())
        info = self._client.publish(topic, body, self._settings.qos, retain)
        if info.rc:
            raise Unreachable(self._reason())
        return info.mid

    def _say_goodbye(self, until_s: float) -> None:
        """Say offline, and disconnect once that is confirmed, or the time is over."""
        assert self._client is not None
        try:
            self.publish_state(self._will_topic, OFFLINE, retain=True)
            while self._states_in_flight and time.monotonic() < until_s:
                self.poll(0.05)
                self._states_in_flight -= self._confirmed
            self._client.disconnect()
        except Unreachable:
            pass

    def _reason(self) -> str:
        if self._refusal:
            return self._refusal
        is_short = 0 < time.monotonic() - self._connected_s < SHORT_LIFE_S
        self._short_lives = self._short_lives + 1 if is_short else 0
        twin = ""
        if self._short_lives >= 2:
            twin = f"; does another client use the client_id {self._client_id}?"
        return (self._lost or "connection lost") + twin

    # --- callbacks of the client, within `poll` or `_publish` ---

    def _on_connect(self, client: Any, _: Any, flags: Any, code: Any, properties: Any) -> None:
        self._refusal = "" if not code.is_failure else _refusal(str(code))

    def _on_disconnect(self, client: Any, _: Any, flags: Any, code: Any, properties: Any) -> None:
        is_timeout = str(code) == "Keep alive timeout"
        self._lost = "keepalive timeout" if is_timeout else "connection lost"

    def _on_publish(self, client: Any, _: Any, mid: int, code: Any, properties: Any) -> None:
        self._confirmed.add(mid)

    def _on_message(self, client: Any, _: Any, message: Any) -> None:
        text = message.payload.decode(errors="replace")
        self._on_text(message.topic, text, bool(message.retain))


def _refusal(text: str) -> str:
    """Return why a broker refuses the connection."""
    if text in ("Not authorized", "Bad user name or password"):
        return f"{text.lower()}; see user and password"
    return text[0].lower() + text[1:]
