"""JPEG and H.264 as RTP payloads: what a reader puts together again is what was sent."""

import struct

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from stages.sinks.rtsp.rtp_jpeg import PAYLOAD_BYTES, Jpeg, jpeg_payloads
from tests.rtsp_h264 import H264, H264Mount, h264_payloads, nal_units

SPS, PPS = b"\x67\x64\x00\x1e\xac", b"\x68\xee\x3c\x80"


def picture(width=64, height=48):
    """Noise, so that the file is large for its sides."""
    return np.random.default_rng(1).integers(0, 255, (height, width, 3), np.uint8)


def jpeg(width=64, height=48, *options):
    return cv2.imencode(".jpg", picture(width, height), [*options])[1].tobytes()


def tables_of(file):
    """The two quantisation tables, as another reader of JPEG would find them."""
    tables, at = b"", 2
    while file[at + 1] != 0xDA:
        size = int.from_bytes(file[at + 2 : at + 4], "big")
        if file[at + 1] == 0xDB:
            for start in range(at + 4, at + 2 + size, 65):
                tables += file[start + 1 : start + 65]
        at += 2 + size
    return tables, file[at + 2 + int.from_bytes(file[at + 2 : at + 4], "big") : -2]


def access_unit(*nals):
    return b"".join(struct.pack(">I", len(nal)) + nal for nal in nals)


@pytest.mark.parametrize("size", [(64, 48), (640, 480), (2040, 2040), (8, 8), (770, 575)])
def test_a_jpeg_comes_out_as_it_went_in(size):
    file = jpeg(*size)
    tables, scan = tables_of(file)
    got, at = b"", 0
    for payload in jpeg_payloads(file):
        offset, kind, q, wide, tall = struct.unpack(">IBBBB", payload[:8])
        assert (offset, kind, q) == (at, 1, 255)
        assert (wide * 8 - size[0], tall * 8 - size[1]) == (-size[0] % 8, -size[1] % 8)
        body = payload[8:]
        if at == 0:
            assert struct.unpack(">BBH", body[:4]) == (0, 0, 128)
            assert body[4:132] == tables
            body = body[132:]
        got += body
        at += len(body)
    assert got == scan


def test_restart_markers_are_in_the_header():
    payload = jpeg_payloads(jpeg(64, 48, cv2.IMWRITE_JPEG_RST_INTERVAL, 4))[0]
    assert payload[4] == 65
    assert struct.unpack(">HH", payload[8:12]) == (4, 0xFFFF)


def test_4_2_2_is_in_the_header():
    factor = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422
    file = jpeg(64, 48, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor)
    assert jpeg_payloads(file)[0][4] == 0


@pytest.mark.parametrize(
    ("file", "why"),
    [
        (b"", "not a JPEG"),
        (b"\x89PNG", "not a JPEG"),
        (b"\xff\xd8", "too early"),
        (jpeg()[:30], "too early"),
        (b"\xff\xd8\xff\xc0\x00\x04\x08\x00", "too early"),
        (b"\xff\xd8\xff\xc0\x00\x00", "damaged"),
        (jpeg(2048, 64), "2040"),
        (jpeg(64, 48, cv2.IMWRITE_JPEG_PROGRESSIVE, 1), "baseline"),
        (
            jpeg(64, 48, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
            "4:2:0",
        ),
        (cv2.imencode(".jpg", picture()[..., 0])[1].tobytes(), "4:2:0"),
    ],
)
def test_what_rtp_cannot_carry_is_refused(file, why):
    with pytest.raises(ValueError, match=why):
        jpeg_payloads(file)


@given(some.integers(0, 700), some.binary(max_size=40))
def test_a_damaged_jpeg_is_refused_or_sent_but_nothing_worse(cut, rubbish):
    file = jpeg()
    try:
        payloads = jpeg_payloads(file[:cut] + rubbish + file[cut + len(rubbish) :])
    except ValueError:
        return
    assert all(0 < len(payload) <= PAYLOAD_BYTES for payload in payloads)


@given(some.integers(1, 5 * PAYLOAD_BYTES))
def test_a_nal_unit_comes_out_as_it_went_in(size):
    nal = b"\x65" + np.random.default_rng(size).bytes(size - 1)
    payloads = h264_payloads(nal)
    assert all(len(payload) <= PAYLOAD_BYTES for payload in payloads)
    if len(payloads) == 1:
        assert payloads == [nal]
        return
    assert {payload[0] for payload in payloads} == {0x60 | 28}
    ends = [payload[1] & 0xC0 for payload in payloads]
    assert ends == [0x80, *[0] * (len(payloads) - 2), 0x40]
    assert {payload[1] & 31 for payload in payloads} == {5}
    assert b"\x65" + b"".join(payload[2:] for payload in payloads) == nal


def test_parameter_sets_go_before_each_key_picture():
    media = H264(SPS, PPS)
    assert media.payloads(access_unit(b"\x65abc")) == [SPS, PPS, b"\x65abc"]
    assert media.payloads(access_unit(SPS, PPS, b"\x65abc")) == [SPS, PPS, b"\x65abc"]
    assert media.payloads(access_unit(b"\x41abc", b"\x41def")) == [b"\x41abc", b"\x41def"]


def test_only_an_idr_picture_is_a_key():
    def is_key(unit):
        return H264Mount("/a", H264(SPS, PPS), lambda: None).encode(unit, 0, 0).is_key

    assert is_key(access_unit(b"\x06sei", b"\x65abc"))
    assert not is_key(access_unit(b"\x06sei", b"\x41abc"))


@given(some.binary(max_size=30))
def test_what_is_no_access_unit_is_refused(data):
    try:
        nals = list(nal_units(data))
    except ValueError:
        return
    assert access_unit(*nals) == data


def test_the_description_says_what_a_decoder_needs():
    lines = H264(SPS, PPS, 12.5).sdp()
    assert lines == [
        "a=rtpmap:96 H264/90000",
        "a=fmtp:96 packetization-mode=1;profile-level-id=64001e;"
        "sprop-parameter-sets=Z2QAHqw=,aO48gA==",
        "a=framerate:12.5",
    ]
    assert Jpeg().sdp() == []
