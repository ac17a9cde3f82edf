"""What proxydhcp.py makes of DHCP messages; runs on CPython under pytest, and unchanged inside MicroPython."""

import random
import sys

from dhcp_messages import GUID, PIS, PXE, discover, message


class Link:
    """In place of link.py: the board has the address 192.0.2.1."""

    _up = True

    class _nic:
        @staticmethod
        def ifconfig():
            return ("192.0.2.1", "255.255.255.0", "0.0.0.0", "0.0.0.0")


_before = sys.modules.get("link")
sys.modules["link"] = Link  # type: ignore[assignment]  # pyright: ignore[reportArgumentType]
import proxydhcp  # noqa: E402
import pxe  # noqa: E402

if _before:
    sys.modules["link"] = _before
else:
    del sys.modules["link"]

FILES = {"bios": "undionly.kpxe", "efi64": "ipxe.efi", "ipxe": "boot.ipxe", "pi": "bootcode.bin", "http64": "a/b.efi"}
OWN = b"\xc0\0\2\1"


def kind(request, files=None):
    return pxe.choose(pxe.parse(request), FILES if files is None else files)


class Bench:
    """A proxy with sockets and a journal that keep what they are given. It is the server, too."""

    def __init__(self, closed=(), **settings):
        self.settings = {"dhcp_proxy": FILES, "http_port": None}
        self.settings.update(settings)
        self.ports = self.poller = self.journal = self
        self.others = {}
        self.closed = dict(closed)  # {port: number of the OSError} of what can't be opened
        self.lines = []
        self.sent = []  # (port of ours, packet, address)
        self.queues = {67: [], 4011: []}
        self.tend = proxydhcp.also(lambda server: None)

    def socket(self, number):
        if number in self.closed:
            raise OSError(self.closed[number], "as on a board")
        return Sock(self, number)

    def log(self, level, text, *values):
        self.lines.append(text % values)

    def register(self, sock, event):
        pass

    unregister = close = lambda self, *_: None

    def hear(self, request, number=67, source=("192.0.2.50", 68)):
        """Give it that message; returns what is sent upon it."""
        before = len(self.sent)
        self.queues[number].append((request, source))
        for one in list(self.others.values())[:1]:
            one.go()
        return self.sent[before:]

    def open(self):
        return sorted([sock.number for sock in self.others])


class Sock:
    def __init__(self, bench, number):
        self.bench = bench
        self.number = number

    def setsockopt(self, *_):
        pass

    def recvfrom(self, size):
        if not self.bench.queues[self.number]:
            raise OSError(11)
        request, source = self.bench.queues[self.number].pop(0)
        return request[:size], source

    def sendto(self, packet, address):
        if isinstance(address, tuple):
            address = address[:2]
        self.bench.sent.append((self.number, packet, address))

    def close(self):
        pass


def place(host, port):
    """The address as socket gives it."""
    import socket

    found = socket.getaddrinfo(host, port)[0][-1]
    return found[:2] if isinstance(found, tuple) else found


def ready(**settings):
    bench = Bench(**settings)
    bench.tend(bench)
    assert bench.lines == ["dhcp: port 67"]
    assert len(bench.sent) == 1  # the question whether there is another server
    del bench.sent[:]
    return bench


def checked(packet, request):
    """The options of an answer, whose fields are those of a proxy."""
    assert len(packet) >= 300 and packet[:4] == b"\2\1\6\0"
    assert packet[4:8] == request[4:8]
    assert packet[10:16] == request[10:16]  # flags, and the client's own address
    assert packet[16:20] == bytes(4)  # never an address
    assert packet[20:24] == OWN
    assert packet[24:44] == request[24:44]
    assert packet[236:240] == b"\x63\x82\x53\x63"
    options = pxe.parse(packet)
    assert options[54] == OWN
    assert 51 not in options and 1 not in options and 3 not in options  # lease, netmask, router
    assert options[97] == pxe.parse(request).get(97, b"")
    return options


def test_the_captured_messages_have_the_length_that_was_captured():
    assert [len(one) for one in PIS] == [320, 322, 322, 322]


def test_the_kind_is_that_of_the_architecture():
    for arch, expected in ((0, "bios"), (7, "efi64"), (9, "efi64"), (11, "arm64"), (16, "http64"), (19, "httparm64")):
        assert kind(discover(arch)) == expected
    for arch in (6, 10, 27, 255):
        assert kind(discover(arch)) == str(arch)


def test_ipxe_is_known_by_its_user_class_or_its_own_option():
    for more in ((77, b"iPXE"), (77, b"\4iPXE"), (175, b"\xb1\5\1\x1a\xf4\x10\0")):
        assert kind(discover(7, more)) == "ipxe"
        assert kind(discover(7, more), {"efi64": "x"}) == "efi64"  # without a file of its own it is like the others
    assert kind(message((53, b"\1"), (60, PXE), (175, b""))) == "ipxe"  # on a machine without a GUID
    assert kind(discover(7, (77, b"gPXE"))) == "efi64"


def test_a_pi_is_known_though_it_says_it_is_a_pc():
    for request in PIS:
        assert kind(request) == "pi"
    assert kind(message((53, b"\1"), (60, PXE), (93, b"\0\0"), (97, bytes(17)))) == "bios"  # QEMU's GUID


def test_nobody_but_boot_roms_is_answered():
    for request in (
        message((53, b"\1")),
        message((53, b"\1"), (60, b"MSFT 5.0"), (97, GUID)),
        message((53, b"\1"), (60, b"android-dhcp-14"), (97, GUID)),
        message((53, b"\1"), (60, b"U-Boot.armv8"), (93, b"\0\x16"), (94, b"\1\0\0")),
        message(
            (53, b"\1"), (60, b"PXEClient:Arch:00011:UNDI:003000"), (93, b"\0\x0b"), (94, b"\1\0\0")
        ),  # U-Boot, too
        message((53, b"\1"), (60, b"pxeclient"), (97, GUID)),
        message((53, b"\1"), (97, GUID), (93, b"\0\7")),
    ):
        assert kind(request) is None
        bench = ready()
        assert bench.hear(request) == [] and len(bench.lines) == 1


def test_an_offer_has_the_file_and_no_address():
    bench = ready()
    request = discover(7, flags=b"\x80\0")
    ((number, packet, address),) = bench.hear(request)
    assert number == 67 and address == place("255.255.255.255", 68)
    options = checked(packet, request)
    assert options[53] == b"\2" and options[60] == b"PXEClient"
    assert options[66] == b"192.0.2.1" and options[67] == b"ipxe.efi"
    assert options[43] == b"\6\1\x08\xff"
    assert packet[108:236].rstrip(b"\0") == b"ipxe.efi"
    assert bench.lines[1:] == ["dhcp: 52:54:00:01:02:03 boots as efi64: ipxe.efi"]


def test_the_longest_file_fits():
    for arch, name in ((7, "efi64"), (16, "http64")):
        bench = ready(dhcp_proxy={name: "x" * 98}, http_port=65535)
        request = discover(arch)
        if arch == 16:
            request = message((53, b"\1"), (60, b"HTTPClient"), (93, b"\0\x10"), (97, GUID))
        packet = bench.hear(request)[0][1]
        options = checked(packet, request)
        assert options[67].endswith(98 * b"x")
        assert packet[108:236].split(b"\0")[0] == options[67]
        assert len(packet) < 548  # the least that every client takes


def test_pis_are_offered_what_they_look_for():
    for request in PIS:
        bench = ready()
        ((_, packet, _address),) = bench.hear(request)
        options = checked(packet, request)
        # As dnsmasq has it in the capture: control 3, a prompt, a menu of one item; here with the three spaces.
        item = b"Raspberry Pi Boot   "
        assert options[43] == b"\6\1\3\x0a\4\0PXE" + b"\x09" + bytes((len(item) + 3, 0, 0, len(item))) + item + b"\xff"
        assert options[60] == b"PXEClient" and options[66] == b"192.0.2.1"
        assert b"\0" not in packet[240 : packet.index(b"\xff", 240 + 100)][:2]  # no padding between: a Pi stops there


def test_http_boot_is_given_a_url():
    request = message((53, b"\1"), (60, b"HTTPClient:Arch:00016:UNDI:003001"), (93, b"\0\x10"), (97, GUID))
    for port, file, url in (
        (8080, "a/b.efi", b"http://192.0.2.1:8080/a/b.efi"),
        (None, "http://192.0.2.9/x.efi", b"http://192.0.2.9/x.efi"),
    ):
        bench = ready(http_port=port, dhcp_proxy={"http64": file})
        packet = bench.hear(request)[0][1]
        options = checked(packet, request)
        assert options[60] == b"HTTPClient" and options[67] == url
    bench = ready(dhcp_proxy={"efi64": "x"}, http_port=80)
    assert bench.hear(request) == []
    assert bench.lines[1:] == ["dhcp: 52:54:00:01:02:03 boots as http64: no file"]


def test_a_rom_is_answered_at_its_port_after_an_offer():
    bench = ready()
    assert bench.open() == [67]
    bench.hear(discover())
    assert bench.open() == [67, 4011]
    request = message((53, b"\3"), (60, PXE), (93, b"\0\0"), (97, GUID), ciaddr=b"\xc0\0\2\x32")
    ((number, packet, address),) = bench.hear(request, 4011)
    assert number == 4011 and address == ("192.0.2.50", 68)
    assert checked(packet, request)[53] == b"\5"
    for _ in range(11):
        bench.tend(bench)
        assert bench.open() == [67, 4011]
    bench.tend(bench)
    assert bench.open() == [67]


def test_without_a_socket_for_that_port_the_offer_stands_and_the_journal_says_so_once():
    bench = ready(closed={4011: 12})
    assert len(bench.hear(discover())) == 1
    for _ in range(5):
        bench.tend(bench)
    assert bench.open() == [67]
    assert bench.lines[2:] == ["dhcp: no socket is left for port 4011; tried again each second"]
    bench.closed.clear()
    bench.tend(bench)
    assert bench.open() == [67, 4011]
    for _ in range(20):
        bench.tend(bench)
    assert bench.open() == [67] and len(bench.lines) == 3


def test_a_port_that_is_taken_is_told_once_and_tried_again():
    for number, text in (
        (98, "port 67 is taken: stop the other DHCP server on this machine"),
        (112, "port 67 is taken: stop the other DHCP server on this machine"),  # an ESP32's number
        (13, "port 67 can only be opened by root"),
        (5, "can't open port 67: "),
    ):
        bench = Bench(closed={67: number})
        for _ in range(3):
            bench.tend(bench)
        assert len(bench.lines) == 1 and not bench.others and not bench.sent
        assert bench.lines[0].startswith("dhcp: " + text) and bench.lines[0].endswith("; tried again each second")
        bench.closed.clear()
        bench.tend(bench)
        assert bench.open() == [67] and bench.lines[1:] == ["dhcp: port 67"] and len(bench.sent) == 1


def test_what_does_not_boot_loads_no_code():
    bench = ready()
    bench.tend(bench)
    sys.modules.pop("pxe", None)
    for request in (
        message((53, b"\1")),
        message((53, b"\1"), (60, b"MSFT 5.0"), (97, GUID)),
        message((53, b"\3"), (60, b"android-dhcp-14"), (50, OWN)),
        message((53, b"\2"), (54, OWN), op=2),
        b"x" * 300,
    ):
        assert bench.hear(request) == [] and "pxe" not in sys.modules
    bench.hear(discover(7))
    assert "pxe" in sys.modules
    bench.tend(bench)
    assert "pxe" in sys.modules  # the machine may still tell its address
    bench.hear(message((53, b"\3"), (50, OWN)))
    bench.tend(bench)
    assert "pxe" not in sys.modules
    sys.modules["pxe"] = pxe


def test_a_request_for_an_address_is_not_answered_and_tells_it():
    bench = ready()
    ask = message((53, b"\3"), (54, b"\xc0\0\2\2"), (50, b"\xc0\0\2\x6f"))  # a Pi leaves out its class here
    assert bench.hear(ask) == [] and len(bench.lines) == 1  # of a stranger
    bench.hear(discover(7))
    assert bench.hear(ask) == []
    assert bench.hear(ask) == []
    assert bench.lines[2:] == ["dhcp: 52:54:00:01:02:03 is 192.0.2.111"]


def test_a_relay_agent_gets_the_answer():
    bench = ready()
    request = discover(7, giaddr=b"\xc0\0\2\xfe")
    ((_, packet, address),) = bench.hear(request)
    checked(packet, request)
    assert address == place("192.0.2.254", 67)


def test_no_more_than_eight_answers_in_a_second():
    bench = ready()
    for _ in range(20):
        bench.hear(discover(7))
    assert len(bench.sent) == 8 and len(bench.lines) == 9
    bench.tend(bench)
    bench.hear(discover(7))
    assert len(bench.sent) == 9


def test_another_proxy_is_told_of_once():
    bench = Bench()
    bench.tend(bench)
    ((number, probe, address),) = bench.sent
    assert number == 67 and address == place("255.255.255.255", 67)
    assert probe[24:28] == OWN  # so that answers come to port 67
    assert kind(probe) == "bios"
    assert bench.hear(probe) == []  # Linux gives it back
    xid = probe[4:8]
    plain = message((53, b"\2"), (54, b"\xc0\0\2\2"), op=2, xid=xid)  # a DHCP server that knows nothing of booting
    bench.hear(plain)
    other = message((53, b"\2"), (54, b"\xc0\0\2\3"), (60, b"PXEClient"), op=2, xid=b"\0\0\0\0")
    bench.hear(other)
    assert len(bench.lines) == 1
    other = message((53, b"\2"), (54, b"\xc0\0\2\3"), (60, b"PXEClient"), op=2, xid=xid)
    for _ in range(3):
        bench.hear(other)
        bench.tend(bench)
    assert bench.lines[1:] == ["dhcp: 192.0.2.3 answers PXE, too"]
    assert len(bench.sent) == 1


def test_without_an_address_nobody_is_answered():
    bench = ready()
    Link._up = False
    try:
        bench.tend(bench)
        assert bench.hear(discover()) == []
    finally:
        Link._up = True


def test_an_empty_datagram_opens_the_port_anew():
    bench = ready()
    bench.hear(b"")
    assert bench.open() == []
    bench.tend(bench)
    assert bench.open() == [67]


def test_options_are_read_to_the_end_and_no_further():
    assert pxe.parse(message()) == {}
    assert pxe.parse(message((1, b""), (2, b"x"))) == {1: b"", 2: b"x"}
    whole = message((53, b"\1"), (60, PXE))
    for end in range(len(whole)):
        found = pxe.parse(whole[:end])
        assert set(found) <= {53, 60}
        assert PXE.startswith(found.get(60, b""))
    assert pxe.parse(whole[:240] + b"\0\0\0" + whole[240:]) == {53: b"\1", 60: PXE}
    assert pxe.parse(whole + b"\1\1\1") == {53: b"\1", 60: PXE}
    assert pxe.parse(b"\1\6\6" + whole[3:]) == {}  # not Ethernet
    assert pxe.parse(whole[:236] + b"\0\0\0\0" + whole[240:]) == {}  # BOOTP


def test_10000_mutated_messages_do_no_harm():
    random.seed(2132)
    bench = ready(http_port=80)
    seeds = [discover(7), discover(0, (77, b"iPXE")), message((53, b"\3"), (60, PXE), (97, GUID), (50, OWN)), b""]
    seeds += list(PIS)
    seeds += [message((53, b"\1"), (60, b"HTTPClient"), (93, b"\0\x10"), (97, GUID))]
    seeds += [message((53, b"\2"), (60, b"PXEClient"), (54, OWN), op=2)]
    answered = 0
    for number in range(10000):
        request = bytearray(seeds[random.getrandbits(16) % len(seeds)])
        for _ in range(1 + random.getrandbits(2)):
            if not request:
                break
            # Mostly where the options are, and what is read of the header.
            at = random.getrandbits(16) % len(request)
            if random.getrandbits(1) and len(request) > 241:
                at = 240 + random.getrandbits(16) % (len(request) - 240)
            what = random.getrandbits(2)
            if what == 0:
                request[at] = random.getrandbits(8)
            elif what == 1:
                request[at] ^= 1 << random.getrandbits(3)
            elif what == 2:
                request = request[:at]
            else:
                request = request[:at] + bytes([random.getrandbits(8)] * random.getrandbits(5)) + request[at:]
        request = bytes(request)
        # What is heard at a port that is closed waits for it.
        bench.queues[67].clear()
        bench.queues[4011].clear()
        sent = bench.hear(request, 4011 if 4011 in bench.open() and number % 3 == 0 else 67)
        assert len(sent) <= 1
        for _, packet, _ in sent:
            answered += 1
            assert kind(request[:1200]) in FILES
            assert packet[16:20] == bytes(4) and packet[:1] == b"\2"
        if number % 8 == 0 or not bench.others:
            bench.tend(bench)
        del bench.lines[1:]
        del bench.sent[:]
    assert 1000 < answered < 9000
