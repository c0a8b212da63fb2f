"""Who takes turns with others in the queues: a key, or without keys the address that a request comes from."""

from __future__ import annotations

from starlette.types import Scope

from app.addresses import network_of


def user_of(scope: Scope) -> str:
    """The user of a request: the name of its key, or else the network of its client, as the nearest proxy gives it."""
    if owner := scope["state"]["owner"]:
        return f"key {owner}"
    client = scope.get("client")
    return f"address {network_of(client[0])}" if client else "no address"
