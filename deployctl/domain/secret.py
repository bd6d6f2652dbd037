"""Secrets in words that are shown or recorded."""

from __future__ import annotations

import re

# The greedy middle reaches the last "@" before the path, since a password may hold one that was not escaped.
_IN_URL = re.compile(r"(://[^:/@\s]*):[^\s/]*@")
_IN_QUERY = re.compile(r"([?&](?:password|passwd|pwd|secret|token|sslpassword)=)[^&\s'\"]*", re.IGNORECASE)


def masked(text: str) -> str:
    """Returns `text` with *** in place of passwords in the URLs that it holds."""
    return _IN_QUERY.sub(r"\1***", _IN_URL.sub(r"\1:***@", text))
