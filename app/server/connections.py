"""How many connections one process holds, and which of them makes room for a new one."""

from __future__ import annotations

import sys
from enum import IntEnum
from typing import Protocol, runtime_checkable

from app.addresses import network_of

RESERVED_FILES = 64  # descriptors for all but connections: decoders, graphs, pages, Redis
SHARE = 4  # one address has at most a quarter of all connections


class Wait(IntEnum):
    """What a connection waits for. Those of the first kind make room first."""

    END = 0  # closed for requests, while its last answer arrives
    FIRST_BYTE = 1
    NEXT_REQUEST = 2
    HEADERS = 3
    READER = 4  # an answer is not read
    BODY = 5
    EARLIER_ANSWERS = 6  # it has sent requests before the answers to others


@runtime_checkable
class Connection(Protocol):
    """What the pool asks of a connection. `client` is its address and port."""

    client: tuple[str, int] | None

    @property
    def wait(self) -> Wait | None:
        """What it waits for, or None while the service works on its answer."""
        ...

    def displace(self) -> None:
        """Close it now, and give its descriptor back."""
        ...


class Connections:
    """All connections of a process, at most `max_connections` and, of one address, a quarter of these.

    A connection that finds no room takes that of another one which waits for its client: of the same address if that
    has its share, else of the address that has most. `Wait` says which kind goes first; within a kind it is the one
    that was not used for longest. So one client with many idle connections takes nothing from others, nor from its own
    requests.
    """

    def __init__(self, max_connections: int) -> None:
        self._max, self._share = max_connections, max(1, max_connections // SHARE)
        self._by_address: dict[str, dict[Connection, None]] = {}  # the connections of one address, the oldest first

    def __len__(self) -> int:
        return sum(map(len, self._by_address.values()))

    def admit(self, connection: Connection) -> bool:
        """Whether there is room for a new connection. If not, it is not counted."""
        own = self._by_address.setdefault(_address_of(connection), {})
        if len(own) >= self._share:
            has_room = self._displace_one(own)
        elif len(self) >= self._max:
            has_room = self._displace_one(max(self._by_address.values(), key=len))
        else:
            has_room = True
        if has_room:
            self._by_address.setdefault(_address_of(connection), {})[connection] = None
        return has_room

    def answered(self, connection: Connection) -> None:
        """Note that a connection was used: it is the last to go of its address."""
        own = self._by_address.get(_address_of(connection), {})
        if connection in own:
            own[connection] = own.pop(connection)

    def discard(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        address = _address_of(connection)
        own = self._by_address.get(address, {})
        own.pop(connection, None)
        if not own:
            self._by_address.pop(address, None)

    def _displace_one(self, crowd: dict[Connection, None]) -> bool:
        waits = {connection: wait for connection in crowd if (wait := connection.wait) is not None}
        if not waits:
            return False
        victim = min(waits, key=lambda connection: waits[connection])  # the first of several, and so the oldest
        self.discard(victim)
        victim.displace()
        return True


def room_for_connections(wanted: int) -> int:
    """How many connections this process can hold, at most `wanted`.

    The soft limit of open files is raised as far as needed and allowed.
    """
    if sys.platform == "win32":  # which has no such limit
        return wanted
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - RESERVED_FILES))


def _address_of(connection: Connection) -> str:
    return network_of(connection.client[0]) if connection.client else ""
