"""A TCP port for a server that will be killed and started again."""

import random
import socket
from typing import Final

# Below every system's range of ephemeral ports (Linux from 32768, others from 49152). The kernel gives those to
# outgoing connections: while the server is down, one could take its port, and a client that keeps trying to
# reconnect could even get that port itself and be connected with itself.
FIRST: Final = 20_000
LAST: Final = 32_000


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at the moment."""
    draw = random.SystemRandom()  # not the global generator: test runs seed it, and would all try the same port
    while True:
        port = draw.randint(FIRST, LAST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
