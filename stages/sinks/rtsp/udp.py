"""RTP over UDP to one viewer: a pair of ports, and packets sent in bursts."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections import deque
from collections.abc import Sequence

SEND_BUFFER_BYTES = 256 << 10
"""Send buffer in the kernel, per viewer: a larger one would hold old images."""
BURST_PACKETS = 24
"""Packets sent at once, as a large image would overflow the viewer's buffer ..."""
BURST_PAUSE_S = 0.001
"""... and the pause between two bursts."""
MAX_TRIES = 20
"""Attempts to find two neighbouring free ports."""


class UdpPorts:
    """Two neighbouring UDP ports, the first one even, connected to those of a viewer.

    Args:
        family: family of the viewer's address.
        own: address of this machine that the viewer is connected to.
        peer: address of the viewer.
        ports: its RTP and RTCP ports.

    Raises:
        OSError: no pair is free, or the viewer's address cannot be reached.
    """

    def __init__(self, family: int, own: str, peer: str, ports: Sequence[int]) -> None:
        self.packets: deque[bytes] = deque()
        """Packets that wait to be sent."""
        for _ in range(MAX_TRIES):
            rtp, rtcp = (socket.socket(family, socket.SOCK_DGRAM) for _ in range(2))
            try:
                rtp.bind((own, 0))
                first = int(rtp.getsockname()[1])
                if first % 2 or first == 65534:
                    raise OSError(errno.EADDRINUSE, "an odd port")
                rtcp.bind((own, first + 1))
                for end, port in zip((rtp, rtcp), ports, strict=True):
                    end.connect((peer, port))
                    end.setblocking(False)
                rtp.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            except OSError as error:
                rtp.close()
                rtcp.close()
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            self.rtp, self.rtcp, self.first = rtp, rtcp, first
            return
        raise OSError(errno.EADDRINUSE, "no pair of UDP ports is free")

    def send_burst(self) -> None:
        """Send as many waiting packets as a burst allows.

        Raises:
            ConnectionRefusedError: the viewer does not listen on its port.
        """
        with contextlib.suppress(BlockingIOError):
            for _ in range(min(BURST_PACKETS, len(self.packets))):
                self.rtp.send(self.packets[0])
                self.packets.popleft()

    def send_report(self, report: bytes) -> None:
        """Send a packet to the RTCP port; one that cannot be sent now is dropped."""
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
            self.rtcp.send(report)

    def receive(self) -> bool:
        """Read and drop what the viewer has sent; whether there was anything.

        Raises:
            ConnectionRefusedError: the viewer does not listen on its RTP port.
        """
        received = False
        for end in (self.rtp, self.rtcp):
            try:
                end.recv(2048)
                received = True
            except BlockingIOError:
                pass
            except ConnectionRefusedError:
                if end is self.rtp:
                    raise
        return received

    def close(self) -> None:
        """Close both sockets."""
        self.rtp.close()
        self.rtcp.close()
