"""Caddy in front of a real replica: python -m …proxied.inside CADDY CADDYFILE FOLDER BUNDLE.

However a path is written, no request from outside may reach /metrics or /admin of the replica. The requests have a key
with every right, so that the replica refuses nothing that the proxy lets pass.
"""

from __future__ import annotations

import http.client
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from posixpath import normpath
from unicodedata import category
from urllib.parse import unquote_to_bytes

from app.server.provision import add_key
from reliability.replicas import Replica, running
from tests.support.deploy import loopback
from tests.support.deploy.proxied.caddy import Proxy, proxying
from tests.support.deploy.proxied.relay import Relay
from tests.support.waiting import PATIENCE_S, wait_until

INSIDE = {"/metrics": "GET", "/admin/reload": "POST"}  # with the method that does something there
ADDRESS = "127.0.0.2"  # where the proxy looks for it; the replica itself is at the next one

# With spaces in between.
NO_TEXT = """
%00 %01 %09 %0A %0D %0D%0A %1B %1F %7F %C2%80 %C2%85 %C2%9F
%80 %C0%AF %C0%AE %C1%9C %E0%80%AF %F0%80%80%AF %ED%A0%80 %FF %C2
"""
# What some server or other takes for nothing, for the end of a path, or for a slash.
TRAILING = r"""
/ // /. /./ /.. /../ /%2e /%2E%2E/ /..;/ . .. %2e ; ;x ;x=1 ;/ /;x %3B %3Bx ? ?x ?%0A %3F %3Fx # #x %23 %20 %2F %2F%2F
\ %5C %252F %250A %2500 * ~ :8000 @ &x , .json .php %E2%80%A8 %C2%A0 + % %0 %G0
"""
LEADING = r"""
/ // /. /./. /%2e /%2E /x/.. /x/%2e%2e /x/y/../.. /x/.%2e /.. /../.. /..; /; /;x /.; /x/..; /x;/.. /%2F /%2f%2f /%5C
/\ /\.. /x\.. /x%5C.. /%20 /web/.. /web/%2e%2e /web/..%2f /predict/.. /grafana/.. /grafana/%2e%2e /grafana/..%2f
/health/live/../.. /%252e%252e /%252F http://localhost https://localhost http://u:p@localhost http://localhost:443
http://localhost/ http://localhost/x/.. //localhost /// /./././././.
"""
SLASHES = r"%2F %2f // /./ /x/../ /;/ ;x/ \ %5C %252F /%2e/ %0A/ /%0A %00/"


def spellings(path: str) -> Iterator[str]:
    """Ways to write a path that somebody, somewhere, may take for it."""
    first = path[1]
    yield from (path, path.upper(), path.title(), path.swapcase())
    for wrong in NO_TEXT.split():
        yield from (path + wrong, wrong + path, "/" + wrong + path[1:], path[:4] + wrong + path[4:])
        yield from (f"/{wrong}/..{path}", f"{path}/..{wrong}/..{path}")
    yield from (path + trailing for trailing in TRAILING.split())
    yield from (leading + path for leading in LEADING.split())
    for encoded in (f"%{ord(first):02X}", f"%{ord(first):02x}", f"%25{ord(first):02X}", f"%u00{ord(first):02x}"):
        yield "/" + encoded + path[2:]
    yield "/" + "".join(f"%{ord(letter):02X}" for letter in path[1:])
    yield f"/{chr(0xFF41 + ord(first) - ord('a'))}{path[2:]}"  # the letter in full width
    if "/" in path[1:]:
        yield from ("/" + path[1:].replace("/", slash) for slash in SLASHES.split())


def path_of(target: str) -> bytes:
    """The path of a request's target, decoded once."""
    return unquote_to_bytes(re.sub(r"^https?://[^/?#]*", "", target).partition("?")[0])


def is_no_text(target: str) -> bool:
    """Whether there is a control character, or what is not UTF-8, in the path."""
    try:
        return any(category(letter) == "Cc" for letter in path_of(target).decode())
    except UnicodeDecodeError:
        return True


def is_inside(target: str) -> bool:
    """Whether the path, normalised, is one of these or below it."""
    path = path_of(target).decode(errors="replace")
    return normpath("/" + path.lower().lstrip("/")).startswith(("/metrics", "/admin"))


def main(caddy: str, caddyfile: Path, folder: Path, bundle: str) -> None:
    loopback.up()
    loopback.resolve(folder, api=(ADDRESS,))
    keys = folder / "keys.toml"
    key = add_key(keys, "all", ["predict", "metrics", "admin"])
    replica = Replica("127.0.0.3", 8000, folder, None, bundle=bundle, threads="1", keys=str(keys))
    with running(replica), Relay((ADDRESS, 8000), (replica.host, replica.port)) as relay:
        with proxying(caddy, caddyfile, folder) as proxy:
            what_is_not_inside_passes(proxy, key, relay)
            no_spelling_gets_inside(proxy, key, relay)
            assert ask(proxy, "GET", "/explain?prediction_id=last", key)[0] == 404
        wait_until(lambda: "/explain" in routes_of(replica))  # all that came before is in the log, too
        assert not routes_of(replica) & {*INSIDE}
        the_replica_would_have_answered(replica, key)


def routes_of(replica: Replica) -> set[object]:
    return {entry["route"] for entry in replica.logged()}


def ask(proxy: Proxy, method: str, target: str, key: str) -> tuple[int, bytes]:
    head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nConnection: close\r\n"
    length = "Content-Length: 0\r\n" if method == "POST" else ""
    status, body, _ = proxy.send(f"{head}{length}\r\n".encode())
    return status, body


def what_is_not_inside_passes(proxy: Proxy, key: str, relay: Relay) -> None:
    for method, path in (("GET", "/model"), ("GET", "/health/ready"), ("GET", "/web/app.js"), ("GET", "/docs")):
        assert ask(proxy, method, path, key)[0] == 200, path
    assert relay.targets == ["/model", "/health/ready", "/web/app.js", "/docs"]


def no_spelling_gets_inside(proxy: Proxy, key: str, relay: Relay) -> None:
    statuses = Counter[int]()
    for path, does in INSIDE.items():
        for target in spellings(path):
            for method in {"GET", does}:
                before = len(relay.targets)
                status, body = ask(proxy, method, target, key)
                passed = relay.targets[before:]
                assert not any(map(is_inside, passed)), (method, target, passed)
                assert status in (0, 308, 400, 404, 405), (method, target, status, body[:200])
                assert b"fusionlens_" not in body, (method, target)
                if is_no_text(target):
                    assert (status, passed) == (400, []), (method, target, status, passed)
                statuses[status] += 1
    print(f"{statuses.total()} spellings of {' and '.join(INSIDE)} did not get there: {dict(statuses)}")


def the_replica_would_have_answered(replica: Replica, key: str) -> None:
    """It is the proxy alone that keeps them out, and the log would have told."""
    for path, method in INSIDE.items():
        connection = http.client.HTTPConnection(replica.host, replica.port, timeout=PATIENCE_S)
        connection.request(method, path, headers={"Authorization": f"Bearer {key}"})
        assert connection.getresponse().status == 200
        connection.close()
    wait_until(lambda: routes_of(replica) >= {*INSIDE})


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
