"""VP8 and VP9 by libvpx, which is part of OpenCV's wheel.

OpenCV has these encoders too, but passes no options to them: at their slow default, VP9 takes some
90 ms of CPU for an image of 768 x 576, VP8 28 ms. With real-time options, both take 3 ms.
"""

from __future__ import annotations

import ctypes
import functools
from ctypes import byref, c_char_p, c_int, c_int64, c_long, c_size_t, c_uint32, c_ulong, c_void_p
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RunError
from pipeline.graph.placement import usable_cores
from stages.sinks.video.packet import Packet

KEY_S = 4.0
"""Longest interval between two key frames, in seconds: a player decodes so much when it seeks."""
VP9_QUALITY = 32
"""From 0, the best, to 63: looks like mp4v at a third of its size."""
VP8_QUALITY = 18
SINGLE_PIXELS = 1_000_000
"""Number of pixels above which several threads encode an image."""
MAX_THREADS = 4
VP8_KBITS = 20_000
"""Rate limit of VP8, so high that `VP8_QUALITY` decides."""

_MIN_VERSION = 1 << 16 | 8 << 8
"""Version 1.8, from which on the fields that are set here have the same places."""
_ABIS = range(20, 64)
_ABI_MISMATCH = 3
_I420 = 0x102
_REALTIME = 1
_CONSTANT_QUALITY = 3
_SET_CPUUSED, _SET_CQ_LEVEL, _SET_COLOR_SPACE = 13, 25, 46
_SET_TILE_COLUMNS, _SET_ROW_MT = 33, 55
_BT_601 = 1
_SPEED_VP8, _SPEED_VP9 = -12, 8
# Places of fields in vpx_codec_enc_cfg_t, in 32-bit words, and their default values.
_THREADS, _WIDTH, _HEIGHT, _BASE_NUM, _BASE_DEN, _LAG = 1, 3, 4, 7, 8, 11
_END_USAGE, _KBITS, _MIN_Q, _MAX_Q, _KEY_MAX = 18, 28, 29, 30, 42
_DEFAULTS = {_WIDTH: 320, _HEIGHT: 240, _BASE_NUM: 1, _BASE_DEN: 30, _KBITS: 256, _KEY_MAX: 128}
_CONFIG_WORDS = 4096
"""Size of the buffer; the structure of every version is far smaller."""
_CONTEXT_BYTES = 1024
_SHOW_LAST = b"\x88"
"""A complete VP9 packet: show the image in buffer 0 again, which is always the last one."""


class _FramePacket(ctypes.Structure):
    _fields_ = (
        ("data", c_void_p),
        ("size", c_size_t),
        ("pts", c_int64),
        ("duration", c_ulong),
        ("flags", c_uint32),
    )


class _PacketHead(ctypes.Structure):
    """The beginning of vpx_codec_cx_pkt_t."""

    _fields_ = (("kind", c_int), ("frame", _FramePacket))


@functools.cache
def library() -> ctypes.CDLL | None:
    """Open the libvpx of OpenCV, else that of the system; None: no known version was found."""
    own = sorted(wheel_folder().glob("opencv*.libs/libvpx*.so*"))
    for name in [*map(str, own), *(f"libvpx.so.{number}" for number in (11, 9, 8, 7, 6))]:
        try:
            found = ctypes.CDLL(name)
        except OSError:
            continue
        if _is_known(found):
            return found
    return None


def _is_known(found: ctypes.CDLL) -> bool:
    """Return whether the structures of the library are as expected here."""
    try:
        for name in ("vp8_cx", "vp9_cx", "get_cx_data", "error_detail"):
            getattr(found, f"vpx_codec_{name}").restype = c_void_p
        found.vpx_img_wrap.restype = c_void_p
        found.vpx_codec_err_to_string.restype = c_char_p
        if found.vpx_codec_version() < _MIN_VERSION:
            return False
        return all(
            all(_config(found, is_vp8)[place] == held for place, held in _DEFAULTS.items())
            for is_vp8 in (False, True)
        )
    except AttributeError:
        return False


def _interface(found: ctypes.CDLL, is_vp8: bool) -> c_void_p:
    return c_void_p(found.vpx_codec_vp8_cx() if is_vp8 else found.vpx_codec_vp9_cx())


def _config(found: ctypes.CDLL, is_vp8: bool) -> ctypes.Array[c_uint32]:
    config = (c_uint32 * _CONFIG_WORDS)()
    found.vpx_codec_enc_config_default(_interface(found, is_vp8), byref(config), 0)
    return config


class VpxEncoder:
    """Encodes VP8 or VP9 at constant quality; gives one packet for each image, immediately.

    Args:
        is_vp8: whether to encode VP8; else VP9.
        width: width of the images in pixels, even.
        height: height of the images in pixels, even.
        fps: images per second.

    Raises:
        RunError: libvpx does not take images of this size.
    """

    config = b""

    def __init__(self, is_vp8: bool, width: int, height: int, fps: float) -> None:
        found = library()
        assert found is not None
        self._library, self._is_vp8 = found, is_vp8
        self._size = width, height
        self._context: ctypes.Array[ctypes.c_char] | None = None
        self._count = 0
        self._last: NDArray[np.uint8] | None = None
        config = _config(found, is_vp8)
        threads = 1 if width * height <= SINGLE_PIXELS else min(MAX_THREADS, usable_cores())
        config[_THREADS] = threads
        config[_WIDTH], config[_HEIGHT] = width, height
        config[_BASE_NUM], config[_BASE_DEN] = 1000, round(fps * 1000)
        config[_LAG] = 0
        config[_END_USAGE], config[_MAX_Q] = _CONSTANT_QUALITY, 63
        config[_MIN_Q] = VP8_QUALITY if is_vp8 else 0
        config[_KBITS] = VP8_KBITS if is_vp8 else 0
        config[_KEY_MAX] = max(1, round(KEY_S * fps))
        context = ctypes.create_string_buffer(_CONTEXT_BYTES)
        failure = _ABI_MISMATCH
        for abi in _ABIS:
            failure = found.vpx_codec_enc_init_ver(
                context, _interface(found, is_vp8), byref(config), c_long(0), abi
            )
            if failure != _ABI_MISMATCH:
                break
        self._check(failure)
        self._context = context
        self._control(_SET_CPUUSED, _SPEED_VP8 if is_vp8 else _SPEED_VP9)
        self._control(_SET_CQ_LEVEL, VP8_QUALITY if is_vp8 else VP9_QUALITY)
        if not is_vp8:
            self._control(_SET_COLOR_SPACE, _BT_601)
            if threads > 1:
                self._control(_SET_TILE_COLUMNS, 2)  # up to four, by the width
                self._control(_SET_ROW_MT, 1)

    def encode(self, image: NDArray[np.uint8]) -> list[Packet]:
        """Encode an image.

        Raises:
            RunError: it could not be encoded.
        """
        self._last = cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420).astype(np.uint8, copy=False)
        return self._encode_last()

    def repeat(self) -> list[Packet]:
        """Encode the last image once more: with VP9 a packet of one byte."""
        return self._encode_last() if self._is_vp8 else [Packet(_SHOW_LAST, False)]

    def _encode_last(self) -> list[Packet]:
        found = self._library
        assert self._last is not None
        planes = c_void_p(self._last.ctypes.data)
        image = c_void_p(found.vpx_img_wrap(None, _I420, *self._size, 1, planes))
        try:
            self._check(
                found.vpx_codec_encode(
                    self._context,
                    image,
                    c_int64(self._count),
                    c_ulong(1),
                    c_long(0),
                    c_ulong(_REALTIME),
                )
            )
        finally:
            found.vpx_img_free(image)
        self._count += 1
        return self._packets()

    def _packets(self) -> list[Packet]:
        packets = []
        at = c_void_p()
        while address := self._library.vpx_codec_get_cx_data(self._context, byref(at)):
            packet = _PacketHead.from_address(address)
            if packet.kind == 0:
                data = ctypes.string_at(packet.frame.data, packet.frame.size)
                packets.append(Packet(data, bool(packet.frame.flags & 1)))
        return packets

    def close(self) -> list[Packet]:
        """Release the encoder; it holds no packets back."""
        if self._context is not None:
            self._library.vpx_codec_destroy(self._context)
            self._context = None
        return []

    def _control(self, what: int, value: int) -> None:
        self._check(self._library.vpx_codec_control_(self._context, what, c_int(value)))

    def _check(self, failure: int) -> None:
        if failure:
            reason = self._library.vpx_codec_err_to_string(failure).decode()
            width, height = self._size
            name = "VP8" if self._is_vp8 else "VP9"
            raise RunError(
                f"libvpx does not encode {name} of {width}x{height} ({reason}); "
                "choose another codec"
            )


def wheel_folder() -> Path:
    """Return the folder in which OpenCV's wheel keeps its libraries."""
    return Path(cv2.__file__).parent.parent
