"""TLS contexts, and messages about connections that failed."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, SetupError
from pipeline.text_files import read_text

if TYPE_CHECKING:
    import ssl


def tls_context(
    ca: str | None, certificate: str | None = None, key: str | None = None
) -> ssl.SSLContext:
    """Make a TLS context from settings of these names.

    Raises:
        SetupError: a file cannot be read, or does not hold what its name says.
    """
    import ssl

    def reason(error: OSError) -> str:
        if isinstance(error, ssl.SSLError):
            return "not in PEM format, or with a passphrase"
        return error.strerror or str(error)

    for name, file in (("ca", ca), ("certificate", certificate), ("key", key)):
        if file is not None:
            _check_readable(name, file)
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise SetupError(f"ca: {ca!r}: {reason(error)}") from None
    if certificate is not None:
        try:
            # Without a password, OpenSSL would ask for a passphrase at the terminal.
            context.load_cert_chain(certificate, key, password="")
        except OSError as error:
            raise SetupError(f"certificate, key: {certificate!r}: {reason(error)}") from None
    return context


def _check_readable(name: str, file: str) -> None:
    """Check that a file is small and regular: OpenSSL would wait for a pipe, or read a device.

    Raises:
        SetupError: it cannot be read.
    """
    try:
        read_text(file)
    except ConfigError as error:
        # If there is no such file, the value may be the key itself.
        shown = repr(file) if name != "key" or os.path.exists(file) else "the file"
        raise SetupError(f"{name}: {shown}: {error}") from None


def connect_error(error: Exception, timeout_s: float) -> str:
    """Return why a connection failed.

    Args:
        error: that of the attempt.
        timeout_s: timeout of the attempt.
    """
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}); if it is your own, set ca"
    if isinstance(error, ssl.SSLError):
        return f"no TLS ({error.reason or error}); check that this port uses TLS"
    if isinstance(error, socket.gaierror):
        return "unknown host"
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout_s:g} s"
    text = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    return text[0].lower() + text[1:]
