"""Between JAX's client in this process and the coordination service of the run, which lives in process 0.

When its connection to that service breaks, JAX's client prints a C++ stack and aborts the process, and nothing in Python can
prevent it. So the client talks to this relay, in its own process. When process 0 has gone, the relay keeps the client's side
open, and reports the loss.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable

from tonsai_jax.errors import TemporaryError

_RETRY_SECONDS = 0.5
_PIECE = 2**16  # bytes


class Relay:
    """Forwards connections to a local port, `address`, to the coordinator at `host:port`, both ways.

    Args:
      on_loss: called once, in another thread, when the coordinator closes a connection that this process still uses.

    Attributes:
      address: "127.0.0.1:PORT", where JAX's client finds the coordinator.
    """

    def __init__(self, host: str, port: int, on_loss: Callable[[], None]) -> None:
        self._coordinator = (host, port)
        self._on_loss = on_loss
        self._leaving = threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.getsockname()[1]}"
        _start(self._accept)

    def leave(self) -> None:
        """From now on the coordinator may end: it is no loss."""
        self._leaving.set()

    def _accept(self) -> None:
        while True:
            client, _ = self._server.accept()
            try:
                coordinator = socket.create_connection(self._coordinator)
            except OSError:
                client.close()  # JAX's client tries again
                continue
            for side in (client, coordinator):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            closed_here = threading.Event()
            _start(self._send, client, coordinator, closed_here)
            _start(self._receive, client, coordinator, closed_here)

    def _send(self, client: socket.socket, coordinator: socket.socket, closed_here: threading.Event) -> None:
        """Forwards what JAX's client sends, until it closes its side."""
        _forward(client, coordinator)
        closed_here.set()
        with contextlib.suppress(OSError):
            coordinator.shutdown(socket.SHUT_RDWR)

    def _receive(self, client: socket.socket, coordinator: socket.socket, closed_here: threading.Event) -> None:
        """Forwards what the coordinator sends; where it ends, the client's side stays open, as this says above."""
        _forward(coordinator, client)
        if not closed_here.is_set() and not self._leaving.is_set():
            self._on_loss()


def wait_for_coordinator(host: str, port: int, seconds: float) -> None:
    """Returns when something listens at `host:port`; raises `TemporaryError` if nothing does for `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, port), timeout=max(_RETRY_SECONDS, deadline - time.monotonic())).close()
            return
        except OSError as error:
            reason = error.strerror or str(error)
        if time.monotonic() >= deadline:
            raise TemporaryError(
                f"process 0, which every process connects to, was not found at {host}:{port} for {seconds:g} s ({reason}); start "
                "it, check the address and the firewall, or raise hosts.connect_seconds"
            )
        time.sleep(_RETRY_SECONDS)


def _forward(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(_PIECE):
            target.sendall(piece)


def _start(work: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=work, args=arguments, name="relay", daemon=True).start()
