"""A network that fails on demand, between a run and its S3 or PostgreSQL server."""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Literal

Mode = Literal["well", "reset", "hang", "slow", "error 503"]

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: closing sends RST and drops unread data
_UNAVAILABLE = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: 73\r\n\r\n"
    b"<Error><Code>SlowDown</Code><Message>Reduce your request rate</Message></Error>"[:73]
)


class Network:
    """Forwards TCP connections to ``server``, which is a port of this machine or the path of a Unix socket.

    ``turn`` sets the mode. ``well``, the first mode, forwards everything. ``reset`` cuts old and new connections.
    ``hang`` keeps connections and forwards nothing. ``slow`` delays each piece by a tenth of a second. ``error 503``
    answers new requests with 503, as a busy S3 does.
    """

    def __init__(self, server: int | Path) -> None:
        self._server = server
        self._mode: Mode = "well"
        self._moved = threading.Condition()
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._listener.getsockname()[1])

    def __enter__(self) -> Network:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.turn("reset")

    def turn(self, mode: Mode) -> None:
        with self._moved:
            self._mode = mode
            self._moved.notify_all()
        if mode in ("reset", "error 503"):
            for connection in list(self._sockets):
                _cut(connection)
            self._sockets.clear()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[client], daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        if self._mode == "reset":
            return _cut(client)
        if self._mode == "error 503":
            with suppress(OSError), client:
                client.recv(1 << 16)
                client.sendall(_UNAVAILABLE)
                client.shutdown(socket.SHUT_WR)
                client.settimeout(1)
                while client.recv(1 << 16):  # read the whole request, because closing early would send a reset
                    pass
            return None
        try:
            server = self._connect()
        except OSError:
            return _cut(client)
        self._sockets |= {client, server}
        back = threading.Thread(target=self._pump, args=[server, client], daemon=True)
        back.start()
        self._pump(client, server)
        back.join()
        for connection in (client, server):
            self._sockets.discard(connection)
            connection.close()
        return None

    def _connect(self) -> socket.socket:
        if isinstance(self._server, int):
            return socket.create_connection(("127.0.0.1", self._server))
        server = socket.socket(socket.AF_UNIX)
        server.connect(str(self._server))
        return server

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                with self._moved:
                    self._moved.wait_for(lambda: self._mode != "hang")
                if self._mode == "slow":
                    time.sleep(0.1)
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        connection.shutdown(socket.SHUT_RDWR)  # so that threads that read from this socket end
    connection.close()
