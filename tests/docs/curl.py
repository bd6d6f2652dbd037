"""As much of curl as the pages use (`curl -s [-d DATA] URL`), for machines that have only Python."""

from __future__ import annotations

import argparse
import sys
import urllib.error
import urllib.request


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("-s", action="store_true")
    parser.add_argument("-d")
    parser.add_argument("url")
    words = parser.parse_args()
    request = urllib.request.Request(words.url, None if words.d is None else words.d.encode())
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            sys.stdout.buffer.write(response.read())
    except urllib.error.HTTPError as error:
        sys.stdout.buffer.write(error.read())
    except urllib.error.URLError:
        return 7
    return 0


if __name__ == "__main__":
    sys.exit(main())
