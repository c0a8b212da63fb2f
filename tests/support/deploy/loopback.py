"""In a network of one's own (`APART`): its loopback is down at first, and names are whatever one's own file says."""

from __future__ import annotations

import fcntl
import socket
import struct
import subprocess
import time
from pathlib import Path

_SIOCSIFFLAGS, _IFF_UP_RUNNING = 0x8914, 0x41
# Of Linux's rtnetlink: a request for a new route, acknowledged, in the table of local addresses.
_NETLINK_ROUTE, _RTM_NEWROUTE, _REQUEST_ACK_CREATE = 0, 24, 0x405
_LOCAL_TABLE, _BOOT, _HOST_SCOPE, _LOCAL_ROUTE, _OUTPUT_INTERFACE = 255, 3, 254, 2, 4


def up() -> None:
    """Bring the loopback up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP_RUNNING))


def take_every_address() -> None:
    """Let every address be this machine's own, so that all that is sent anywhere stays here and passes the loopback."""
    families = [socket.AF_INET]
    if Path("/proc/net/if_inet6").exists():
        families.append(socket.AF_INET6)
    for family in families:
        route = struct.pack("8BI", family, 0, 0, 0, _LOCAL_TABLE, _BOOT, _HOST_SCOPE, _LOCAL_ROUTE, 0)
        route += struct.pack("HHi", 8, _OUTPUT_INTERFACE, socket.if_nametoindex("lo"))
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE) as kernel:
            kernel.send(struct.pack("IHHII", 16 + len(route), _RTM_NEWROUTE, _REQUEST_ACK_CREATE, 1, 0) + route)
            (error,) = struct.unpack_from("i", kernel.recv(1024), 16)
        if error:
            raise OSError(-error, "the kernel refuses the route")


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
