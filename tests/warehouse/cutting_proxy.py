"""A proxy between a client and PostgreSQL that cuts the connection at a chosen point."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: closing sends RST, and data on the way are lost


@dataclass
class CuttingProxy:
    """Forwards TCP connections to the server's Unix socket. ``after`` or ``at``: when it cuts both connections."""

    server: Path
    after: int | None = None  # cut when the client has sent this many bytes
    at: Literal["commit", "answer to commit"] | None = None
    stall: bool = False  # keep the connections, but forward nothing more
    from_client: int = 0
    reached: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> CuttingProxy:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._cut()
        for thread in self._threads:
            thread.join(30)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self.server))
            self._sockets += [client, server]
            for pump in (self._to_server, self._to_client):
                thread = threading.Thread(target=pump, args=[client, server])
                self._threads.append(thread)
                thread.start()

    def _to_server(self, client: socket.socket, server: socket.socket) -> None:
        while data := _received(client):
            room = len(data) if self.after is None else max(0, self.after - self.from_client)
            if room < len(data) or (self.at == "commit" and b"COMMIT" in data):
                server.sendall(data[:room] if self.at is None else b"")
                return self._break_off()
            if self.at == "answer to commit" and b"COMMIT" in data:
                self.reached.set()  # set it before the server can answer
            server.sendall(data)
            self.from_client += len(data)
        return _end(server)

    def _to_client(self, client: socket.socket, server: socket.socket) -> None:
        while data := _received(server):
            if self.at == "answer to commit" and self.reached.is_set():
                return self._break_off()
            client.sendall(data)
        return _end(client)

    def _break_off(self) -> None:
        self.reached.set()
        if not self.stall:
            self._cut()

    def _cut(self) -> None:
        for connection in self._sockets:
            if connection.fileno() >= 0:
                if connection.family == socket.AF_INET:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                _end(connection)
                connection.close()


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(4096)
    except OSError:
        return b""


def _end(connection: socket.socket) -> None:
    """Shut the socket down. This ends the ``recv`` of threads that read from it."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
