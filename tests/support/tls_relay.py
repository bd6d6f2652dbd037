"""Takes TLS connections of clients with a certificate on a free port of this machine, and passes them to a socket.

    python -m tests.support.tls_relay CERTIFICATES SOCKET

CERTIFICATES holds ca.pem, cert.pem and key.pem. The port is written to stdout.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from pathlib import Path


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        else:
            writer.close()
    except OSError:
        writer.close()


async def relay(certificates: Path, path: str) -> None:
    """Passes on whatever comes, until it is cancelled."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_unix_connection(path)
        await asyncio.gather(_carry(reader, ours), _carry(theirs, writer))
        ours.close()
        writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates / "ca.pem"))
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    async with server:
        sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
        sys.stdout.flush()
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(relay(Path(sys.argv[1]), sys.argv[2]))
