"""A UDP relay between TFTP clients and a server on loopback. It drops, duplicates, reorders and delays datagrams.

    with Relay(server_port, loss=0.02, seed=7) as relay:
        ...  # clients talk to 127.0.0.1 port relay.port
    print(relay.lost)

It keeps TIDs apart (RFC 1350 section 4): the server sees each client at its own port, and a client sees each server
port that answers it at its own port. The relay runs in a thread. The same seed treats the same datagrams alike.
"""

import random
import selectors
import socket
import threading
import time
from heapq import heappop, heappush
from types import TracebackType

Address = tuple[str, int]

_HOST = "127.0.0.1"
_MAX_DATAGRAM = 65535
_BURST = 64  # most datagrams read from one socket before the others are read
_REORDERED_S = 0.005  # extra delay of a reordered datagram: the rest of its window overtakes it


class Relay:
    """A context manager that relays for any number of clients.

    port        where the clients send their requests (int, on 127.0.0.1)
    passed      datagrams delivered, duplicates included (int)
    lost        datagrams dropped (int)
    duplicated  datagrams sent twice (int)
    reordered   datagrams held back so that later ones overtake them (int)
    """

    def __init__(
        self,
        server_port: int,
        *,
        loss: float | tuple[float, float] = 0,
        duplicate: float = 0,
        reorder: float = 0,
        delay_ms: float = 0,
        seed: int = 1,
    ) -> None:
        """`loss`, `duplicate`, `reorder`: probabilities for each datagram, 0..1; `delay_ms`: milliseconds each way.

        `loss` applies both ways; or a pair: to the server, to the client.
        """
        self._server: Address = (_HOST, server_port)
        self._loss = loss if isinstance(loss, tuple) else (loss, loss)
        self._duplicate = duplicate
        self._reorder = reorder
        self._delay_s = delay_ms / 1000
        # One for each direction: the order in which the directions interleave changes nothing.
        self._dice = (random.Random(2 * seed), random.Random(2 * seed + 1))
        self.passed = self.lost = self.duplicated = self.reordered = 0
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._upstreams: dict[Address, socket.socket] = {}  # client: the socket that represents it to the server
        self._clients: dict[socket.socket, Address] = {}  # the inverse
        self._faces: dict[tuple[Address, Address], socket.socket] = {}  # client, TID: the TID's socket to the client
        self._servers: dict[socket.socket, Address] = {}  # the server address behind such a socket
        # A heap of delayed datagrams: due time (monotonic), sequence number, socket to send from, datagram, target.
        self._waiting: list[tuple[float, int, socket.socket, bytes, Address]] = []
        self._order = 0
        listener = self._open()
        self._servers[listener] = self._server
        self._listener = listener
        self.port: int = listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def __enter__(self) -> "Relay":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wake.close()
        self._thread.join()
        for sock in (*self._clients, *self._servers, self._woken):
            sock.close()
        self._selector.close()

    def _open(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((_HOST, 0))
        sock.setblocking(False)
        self._selector.register(sock, selectors.EVENT_READ)
        return sock

    def _run(self) -> None:
        over = False
        while self._waiting or not over:  # delayed datagrams still arrive at the end, such as a last ACK
            wait = max(self._waiting[0][0] - time.monotonic(), 0) if self._waiting else None
            for key, _ in self._selector.select(wait):
                sock = key.fileobj
                if sock is self._woken:
                    self._selector.unregister(sock)
                    over = True
                    continue
                assert isinstance(sock, socket.socket)
                self._drain(sock)
            while self._waiting and self._waiting[0][0] <= time.monotonic():
                self._deliver(*heappop(self._waiting)[2:])

    def _drain(self, sock: socket.socket) -> None:
        for _ in range(_BURST):
            try:
                datagram, sender = sock.recvfrom(_MAX_DATAGRAM)
            except BlockingIOError:
                return
            if sock in self._clients:
                client = self._clients[sock]
                self._decide(1, self._face(client, sender), datagram, client)
            else:
                self._decide(0, self._upstream(sender, sock), datagram, self._servers[sock])

    def _upstream(self, client: Address, face: socket.socket) -> socket.socket:
        if client not in self._upstreams:
            sock = self._upstreams[client] = self._open()
            self._clients[sock] = client
        # A stranger that sends to another client's TID gets the answer from that port.
        self._faces.setdefault((client, self._servers[face]), face)
        return self._upstreams[client]

    def _face(self, client: Address, tid: Address) -> socket.socket:
        if (client, tid) not in self._faces:
            sock = self._faces[client, tid] = self._open()
            self._servers[sock] = tid
        return self._faces[client, tid]

    def _decide(self, way: int, sock: socket.socket, datagram: bytes, target: Address) -> None:
        dice = self._dice[way]
        # Always draw all three, so that the fate of one datagram does not change that of the next.
        lose, double, late = dice.random(), dice.random(), dice.random()
        if lose < self._loss[way]:
            self.lost += 1
            return
        delay = self._delay_s
        if late < self._reorder:
            self.reordered += 1
            delay += _REORDERED_S
        self._send(delay, sock, datagram, target)
        if double < self._duplicate:
            self.duplicated += 1
            self._send(delay, sock, datagram, target)

    def _send(self, delay: float, sock: socket.socket, datagram: bytes, target: Address) -> None:
        if delay:
            self._order += 1
            heappush(self._waiting, (time.monotonic() + delay, self._order, sock, datagram, target))
        else:
            self._deliver(sock, datagram, target)

    def _deliver(self, sock: socket.socket, datagram: bytes, target: Address) -> None:
        try:
            sock.sendto(datagram, target)
            self.passed += 1
        except OSError:  # full buffers: the datagram is lost, as on any network
            self.lost += 1
