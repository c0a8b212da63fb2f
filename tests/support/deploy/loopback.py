"""In a network of one's own (`APART`): its loopback is down at first, and names are whatever one's own file says."""

from __future__ import annotations

import fcntl
import socket
import struct
import subprocess
import time
from pathlib import Path

_SIOCSIFFLAGS, _IFF_UP_RUNNING = 0x8914, 0x41


def up() -> None:
    """Bring the loopback up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP_RUNNING))


def resolve(folder: Path, **names: tuple[str, ...]) -> None:
    """Let these names mean these addresses, for this process and those that it starts, in its own mounts."""
    lines = [f"{address} {name}" for name, addresses in names.items() for address in addresses]
    hosts = folder / "hosts"
    hosts.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
    subprocess.run(["mount", "--bind", hosts, "/etc/hosts"], check=True)


def wait_for(host: str, port: int, within_s: float = 20) -> None:
    """Until something listens there. Raises TimeoutError."""
    end = time.monotonic() + within_s
    while not is_listening(host, port):
        if time.monotonic() > end:
            raise TimeoutError(f"nothing listens on {host}:{port} after {within_s} s")
        time.sleep(0.05)


def is_listening(host: str, port: int) -> bool:
    """Whether a connection can be made there."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True
