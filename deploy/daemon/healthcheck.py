"""Ends with 0 where the daemon of this container answers at /healthz, at $HEALTH_URL or its port of loopback."""

import os
import ssl
import sys
import urllib.error
import urllib.request

_LOOPBACK = ("http://127.0.0.1:8510/healthz", "https://127.0.0.1:8510/healthz")


def main() -> int:
    """Returns the exit code."""
    named = os.environ.get("HEALTH_URL")
    # Of itself: whom the certificate names is of no interest.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for url in (named,) if named else _LOOPBACK:
        try:
            with urllib.request.urlopen(url, timeout=4, context=context) as answer:
                return 0 if answer.status == 200 else 1
        except (urllib.error.URLError, OSError, ValueError) as error:
            sys.stderr.write(f"{url}: {error}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
