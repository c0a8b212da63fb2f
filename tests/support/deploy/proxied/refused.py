"""Caddy in front of a real replica that refuses uploads: python -m …proxied.refused CADDY CADDYFILE FOLDER BUNDLE.

The replica answers before it has read the body. A proxy that is still sending it must not take that for a failure.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from app.server.provision import add_key
from reliability.replicas import Replica, running
from tests.support.deploy import loopback
from tests.support.deploy.proxied.caddy import proxying


def main(caddy: str, caddyfile: Path, folder: Path, bundle: str) -> None:
    loopback.up()
    loopback.resolve(folder, api=("127.0.0.2",))
    keys = folder / "keys.toml"
    add_key(keys, "one", ["predict"])
    replica = Replica("127.0.0.2", 8000, folder, None, bundle=bundle, threads="1", keys=str(keys))
    with running(replica), proxying(caddy, caddyfile, folder) as proxy:
        length, chunk = 100_000, b"186a0\r\n" + b"x" * 100_000 + b"\r\n0\r\n\r\n"
        bodies = (
            f"Content-Length: {length}\r\n\r\n".encode() + b"x" * length,
            b"Transfer-Encoding: chunked\r\n\r\n" + chunk,
        )
        head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
        statuses = Counter(proxy.send(head + body)[0] for body in bodies for _ in range(200))
    assert statuses == {401: 400}, statuses
    print(f"{statuses.total()} uploads without a key were refused, and the proxy said so")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
