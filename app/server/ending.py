"""The end of the server: whoever has connected is answered."""

from __future__ import annotations

import asyncio
import socket

import uvicorn

from app.server.connections import Connection

UNREAD_S = 1.0  # for a request to arrive on a connection that is new when the server ends


class EndingServer(uvicorn.Server):
    """uvicorn's server, but for its end.

    uvicorn closes its sockets, and connections on which no request has begun. The kernel may have made connections by
    then that were not taken, and requests may lie unread on others. All of them would be reset, and a proxy could not
    tell that from a process that died of the request.
    """

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn.Server."""
        await self._take_last_connections(sockets or [])
        loop = asyncio.get_running_loop()
        until_s = loop.time() + UNREAD_S
        while self._awaits_requests() and loop.time() < until_s and not self.force_exit:
            await asyncio.sleep(0.01)
        await super().shutdown(sockets)

    async def _take_last_connections(self, sockets: list[socket.socket]) -> None:
        """Stop listening, but take what was connected before."""
        listening = [sock.dup() for sock in sockets]  # a socket listens for as long as it has a descriptor
        for server in self.servers:
            server.close()
        for sock in sockets:
            sock.close()
        taken = list[socket.socket]()
        for sock in listening:
            sock.setblocking(False)
            while (connection := _accepted(sock)) is not None:
                taken.append(connection)
            sock.close()
        for connection in taken:
            await asyncio.get_running_loop().connect_accepted_socket(self._make_protocol, connection)

    def _make_protocol(self) -> asyncio.Protocol:
        protocol: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol

    def _awaits_requests(self) -> bool:
        """Whether there is a connection whose first request has not arrived."""
        connections = (one for one in self.server_state.connections if isinstance(one, Connection))
        return any(one.waits_for_client and not one.was_answered for one in connections)


def _accepted(sock: socket.socket) -> socket.socket | None:
    """The next connection that was made, if there is one."""
    try:
        connection, _ = sock.accept()
    except BlockingIOError:
        return None
    connection.setblocking(False)
    return connection
