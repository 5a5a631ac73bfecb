"""Digest authentication of the RTSP server (RFC 7616)."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field

REALM = "Eyeline"


@dataclass(frozen=True)
class Credentials:
    """User and password that a viewer needs."""

    user: str
    password: str = field(repr=False)

    def challenges(self, nonce: str) -> list[str]:
        """Return the values of WWW-Authenticate, the preferred one first."""
        return [f'Digest realm="{REALM}", nonce="{nonce}", algorithm=MD5']

    def accepts(self, header: str | None, method: str, nonce: str) -> bool:
        """Return whether the value of an Authorization header is right.

        The nonce belongs to one connection, so a recorded answer is useless on another one.

        Args:
            header: None: there is none.
            method: method of the request.
            nonce: nonce of the connection.
        """
        scheme, _, text = (header or "").partition(" ")
        return scheme.lower() == "digest" and self._accepts_digest(text, method, nonce)

    def _accepts_digest(self, text: str, method: str, nonce: str) -> bool:
        fields = {
            name.lower(): quoted or bare
            for name, quoted, bare in re.findall(r'(\w+)\s*=\s*(?:"([^"]*)"|([^\s,]+))', text)
        }
        if fields.get("nonce") != nonce or fields.get("algorithm", "MD5").upper() != "MD5":
            return False
        middle = [nonce]
        if "qop" in fields:
            if fields["qop"] != "auth":
                return False
            middle += [fields.get("nc", ""), fields.get("cnonce", ""), "auth"]
        expected = _md5(
            _md5(self.user, REALM, self.password),
            *middle,
            _md5(method, fields.get("uri", "")),
        )
        # Both are compared in constant time, and always both.
        user_is_right = hmac.compare_digest(fields.get("username", "").encode(), self.user.encode())
        response = fields.get("response", "")
        return user_is_right & hmac.compare_digest(response.encode(), expected.encode())


class Login:
    """The attempts of one connection to give the right password."""

    def __init__(self) -> None:
        self.refusals = 0
        self._nonce = secrets.token_hex(16)

    def challenges(
        self, credentials: Credentials, header: str | None, method: str
    ) -> list[str] | None:
        """Check a request, and return the challenges that refuse it; None: it is accepted."""
        if credentials.accepts(header, method, self._nonce):
            return None
        self.refusals += header is not None
        return credentials.challenges(self._nonce)


def _md5(*parts: str) -> str:
    return hashlib.md5(":".join(parts).encode(), usedforsecurity=False).hexdigest()
