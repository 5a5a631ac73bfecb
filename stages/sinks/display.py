"""Whether OpenCV can show windows on this machine."""

from __future__ import annotations

import ctypes
import os
import socket
import sys

import cv2


def display_problem() -> str | None:
    """Return why no window can be shown, and what to do; None: it can.

    Has to be called before a window is opened: Qt, which OpenCV uses on Linux, ends the process if
    there is no display.
    """
    toolkit = window_toolkit(cv2.getBuildInformation())
    if toolkit == "NONE":
        return "this OpenCV is built without windows; install opencv-python, not the headless one"
    if not sys.platform.startswith("linux"):
        return None
    display = os.environ.get("DISPLAY", "")
    if not display:
        if os.environ.get("WAYLAND_DISPLAY"):
            return "DISPLAY is not set; OpenCV needs Xwayland to show windows on Wayland"
        return "no display (DISPLAY is not set)"
    if toolkit.startswith("QT") and os.environ.get("QT_QPA_PLATFORM", "xcb") != "xcb":
        return f"QT_QPA_PLATFORM is {os.environ['QT_QPA_PLATFORM']!r}; OpenCV brings only 'xcb'"
    for library in ("libSM.so.6", "libICE.so.6", "libXext.so.6", "libX11.so.6"):
        try:
            x11 = ctypes.CDLL(library)
        except OSError:
            return f"{library} is missing; install it (Debian: apt-get install libsm6 libxext6)"
    if not display_answers(display, x11):
        return f"no answer from the display {display!r} (DISPLAY)"
    return None


def display_answers(display: str, x11: ctypes.CDLL) -> bool:
    """Return whether an X server can be reached and accepts connections."""
    host, _, number = display.rpartition(":")
    if host and host != "unix" and not host.startswith("/"):
        # Xlib would try an unreachable host for minutes.
        try:
            port = 6000 + int(number.partition(".")[0])
            socket.create_connection((host, port), timeout=2).close()
        except (OSError, ValueError):
            return False
    x11.XOpenDisplay.restype = ctypes.c_void_p
    x11.XOpenDisplay.argtypes = [ctypes.c_char_p]
    x11.XCloseDisplay.argtypes = [ctypes.c_void_p]
    connection = x11.XOpenDisplay(display.encode())
    if connection is None:
        return False
    x11.XCloseDisplay(connection)
    return True


def window_toolkit(build_information: str) -> str:
    """Return the window library of OpenCV: "QT5", "GTK3", "WIN32UI", "COCOA", or "NONE"."""
    for line in build_information.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "GUI":
            return value.strip().upper() or "NONE"
    return "NONE"
