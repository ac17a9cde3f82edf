"""Behaviour of server.py that no client on loopback can cause: spoofed sources, lack of memory, Ctrl-C."""

import os
from errno import EAGAIN

import pytest
import settings
from tftpd import files, uploads
from tftpd.options import Agreed
from tftpd.packet import Refused
from tftpd.ports import Port, host_port
from tftpd.server import Server


@pytest.fixture(autouse=True)
def empty_flash(monkeypatch):
    """CPython has no ilistdir."""
    monkeypatch.setattr(os, "ilistdir", lambda path: iter(()), raising=False)


class FakeSocket:
    """A socket that delivers a few datagrams and records what is sent."""

    def __init__(self, *datagrams, address):
        self._waiting = [(datagram, address) for datagram in reversed(datagrams)]
        self.sent = []

    def recvfrom(self, size):
        if not self._waiting:
            raise OSError(EAGAIN)
        datagram, address = self._waiting.pop()
        return datagram[:size], address

    def sendto(self, datagram, address):
        self.sent.append((bytes(datagram), address))
        return len(datagram)


def no_socket(*_):
    raise OSError


def answers(*datagrams_and_address, listening=True):
    *datagrams, address = datagrams_and_address
    server = Server(settings.defaults())
    sock = FakeSocket(*datagrams, address=address)
    ports = server.ports
    port = ports.listener if listening else Port(50_000)
    ports.listener.sock = port.sock = sock  # type: ignore[assignment]
    ports.bound[sock] = port
    ports.wait = lambda timeout_ms: [(sock, 1)]  # CPython has no ipoll
    ports.socket = no_socket  # type: ignore[assignment]  # a refusal comes from the listening port then
    for _ in datagrams:  # one request is handled per turn
        server.poll(0)
    return sock.sent


@pytest.mark.parametrize("host", ["224.0.0.1", "239.255.255.255", "255.255.255.255", "0.0.0.0", "240.0.0.1"])
def test_multicast_and_broadcast_sources_are_never_answered(host):
    assert answers(b"\0\1missing\0octet\0", (host, 1234)) == []
    assert answers(b"\0\7", (host, 1234)) == []
    assert answers(b"\0\4\0\1", (host, 1234), listening=False) == []


def test_port_0_is_never_answered():
    assert answers(b"\0\1missing\0octet\0", ("10.0.0.5", 0)) == []
    assert answers(b"\0\4\0\1", ("10.0.0.5", 0), listening=False) == []


def test_other_sources_are_answered():
    assert answers(b"\0\7", ("10.0.0.5", 1234))[0][1] == ("10.0.0.5", 1234)
    assert answers(b"\0\7", ("223.0.0.5", 1))[0][0][:4] == b"\0\5\0\4"
    assert answers(b"\0\4\0\1", ("10.0.0.5", 1234), listening=False)[0][0][:4] == b"\0\5\0\5"


@pytest.mark.parametrize("listening", [True, False])
def test_an_empty_datagram_does_not_discard_the_next_one(listening):
    assert len(answers(b"", b"\0\7", ("10.0.0.5", 1234), listening=listening)) == 1


def test_a_lack_of_memory_for_a_datagram_loses_only_that_datagram(monkeypatch):
    def recvfrom(self, size):
        raise MemoryError

    monkeypatch.setattr(FakeSocket, "recvfrom", recvfrom)
    monkeypatch.setattr("sys.print_exception", lambda trouble: None, raising=False)
    assert answers(b"\0\7", ("10.0.0.5", 1234)) == []


def test_without_memory_for_a_large_datagram_short_ones_are_received(monkeypatch):
    # For example while uploads have larger blocks than the heap has room for.
    right = FakeSocket.recvfrom

    def recvfrom(self, size):
        if size > 64:
            raise MemoryError
        return right(self, size)

    monkeypatch.setattr(FakeSocket, "recvfrom", recvfrom)
    monkeypatch.setattr("sys.print_exception", lambda trouble: None, raising=False)
    sent = answers(b"\0\7", b"\0\1" + b"long" * 100 + b"\0octet\0", ("10.0.0.5", 1234))
    assert [packet[:4] for packet, _ in sent] == [b"\0\5\0\4", b"\0\5\0\0"]
    assert b"no memory just now" in sent[1][0]


def test_poll_goes_on_after_ctrl_c():
    def interrupted(timeout_ms):
        raise KeyboardInterrupt

    server = Server(settings.defaults())
    server.ports.socket = no_socket  # type: ignore[assignment]
    server.ports.listener.sock = sock = FakeSocket(b"\0\7", address=("10.0.0.5", 1234))  # type: ignore[assignment]
    server.ports.bound[sock] = server.ports.listener
    server.ports.wait = interrupted
    with pytest.raises(KeyboardInterrupt):
        server.poll(0)
    server.ports.wait = lambda timeout_ms: [(sock, 1)]
    assert server.poll(0) is False and len(sock.sent) == 1


def test_a_closed_port_is_not_polled_again():
    server = Server(settings.defaults())
    server.files.names.jobs.clear()
    ports = server.ports
    ports.listener.sock = FakeSocket(address=None)  # type: ignore[assignment]
    port = Port(50_000)
    sock = FakeSocket(*[b"\0\4\0\1"] * 20, address=("10.0.0.5", 1234))  # more than are taken in one turn
    port.sock = sock  # type: ignore[assignment]
    ports.bound[sock] = port
    waits = []

    def wait(timeout_ms):
        waits.append(timeout_ms)
        return [(sock, 1)] if len(waits) == 1 else []

    ports.wait = wait
    server.poll(1000)
    port.sock = None
    server.poll(1000)
    server.poll(1000)
    assert waits == [1000, 0, 1000], "with datagrams left a turn does not wait"


def test_ctrl_c_while_a_replaced_file_is_removed_leaves_nothing(monkeypatch, tmp_path):
    # Ctrl-C comes while the last reader's file is closed; stop() closes it again.
    folder = tmp_path / ".uploads"
    folder.mkdir()
    monkeypatch.setattr(files, "UPLOADS", str(folder))
    monkeypatch.setattr(uploads, "UPLOADS", str(folder))
    chosen = dict(settings.defaults(), root=str(tmp_path))
    tree = files.Files(chosen, 10)
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "new").write_bytes(b"new")
    path = str(tmp_path / "file")
    source = tree.source(open(path, "rb"), path, "octet", Agreed((), 512, 1))  # noqa: SIM115
    uploads.Uploads(chosen, tree).put(str(tmp_path / "new"), str(tmp_path / "file"))
    assert len(list(folder.iterdir())) == 2, "the old file, and the note with its path"

    def interrupted(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(files, "remove", interrupted)
        tree.close(source)
    tree.close(source)
    assert not list(folder.iterdir()) and (tmp_path / "file").read_bytes() == b"new"


def test_a_board_starts_although_the_folder_of_a_file_moved_aside_is_gone(monkeypatch, tmp_path):
    monkeypatch.setattr(uploads, "UPLOADS", str(tmp_path))
    note, aside = tmp_path / "00000001", tmp_path / "00000001.old"
    note.write_text(str(tmp_path / "no such folder/file"))
    aside.write_bytes(b"old")
    for _ in range(2):
        volume = uploads.Volume("", 0)
        volume.recover()
        assert aside.read_bytes() == b"old"
        # The next upload does not take the place of the note.
        assert volume.new_temporary() == str(tmp_path / "00000002")
    note.write_bytes(b"\xff\xfe no note")
    uploads.Volume("", 0).recover()
    assert not list(tmp_path.iterdir())


def test_an_upload_that_ends_gives_its_room_back_to_a_flash_that_is_too_full(monkeypatch):
    # keep_free is more than what is free, as after files were put there: the server ended: "filesystem is full".
    store = uploads.Volume("", 16384)
    stat = [4096, 4096, 100, 3, 0, 0, 0, 0, 0, 255]
    monkeypatch.setattr(uploads.os, "statvfs", lambda root: stat)
    store._look()
    store._changed = True
    store.take(-2)
    with pytest.raises(Refused):
        store.take(1)


def test_a_fault_is_logged_once_even_if_its_transfer_has_already_ended():
    server = Server(settings.defaults())
    server.fail(object(), MemoryError())  # its session has ended
    server.fail(None, MemoryError())


def test_addresses_of_both_forms_are_read():
    assert host_port(("10.1.2.3", 69)) == ("10.1.2.3", 69)
    assert host_port(b"\x02\x00\x1b\x39\x0a\x01\x02\x03" + bytes(8)) == ("10.1.2.3", 6969)


def test_ctrl_c_while_a_finished_transfer_is_closed_does_not_turn_it_into_a_failure(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_bytes(b"all")
    client = ("10.0.0.5", 1234)
    server = Server(dict(settings.defaults(), root=str(tmp_path), single_port=True))
    server.files.names.jobs.clear()
    ports = server.ports
    sock = FakeSocket(b"\0\1file\0octet\0", b"\0\4\0\1", address=client)
    ports.listener.sock = sock  # type: ignore[assignment]
    ports.bound[sock] = ports.listener
    ports.wait = lambda timeout_ms: [(sock, 1)]
    monkeypatch.setattr(ports, "watch", lambda port: None)
    monkeypatch.setattr(ports, "close", lambda port: None)
    server.poll(0)
    close = server.files.close

    def interrupted(source):
        raise KeyboardInterrupt

    monkeypatch.setattr(server.files, "close", interrupted)
    with pytest.raises(KeyboardInterrupt):
        server.poll(0)
    monkeypatch.setattr(server.files, "close", close)
    server.stop()
    assert [packet[:4] for packet, _ in sock.sent] == [b"\0\3\0\1"]
    assert "done, 3 bytes" in capsys.readouterr().out and not ports.sessions
