"""`python -m tools fleet`: 20 everyday boards at once, of which some fail; boards by wire; a genuine ESP32-C3."""

import argparse
import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from board import ROOT, Board, missing
from client import fetch
from command import complain, shown_on
from prompt import Prompt, console_loses, sha256
from served import content
from tools import ToolError, compress, deploy, filesystem, fleet, fleet_file
from tools.relay import Relay

FILES = {"hello.txt": b"Hello, fleet.\n", "empty": b"", "boot.bin": content(150_000), "Grüße #1.txt": b"Umlaute" * 50}
MANY = {f"many-{number:03}": content(100, number) for number in range(400)}
TEXT = b"a line that comes again\n" * 2000
Index = dict[str, tuple[int, int]]  # size and CRC32 by name


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def sums(files: dict[str, bytes]) -> Index:
    return {name: (len(data), zlib.crc32(data)) for name, data in files.items()}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Server:
    """A board that takes uploads, over HTTP too if `web`. What it stored is there when it starts again."""

    def __init__(
        self, folder: Path, files: dict[str, bytes], web: bool, *settings: str, board: str = "unix", serial: int = 0
    ) -> None:
        self.files = write(folder / "start", files)
        self.web = free_port() if web else 0
        self._port = 0
        self._arguments = ["--board", board, "--writable", "--save", str(folder / "flash"), "--set", "overwrite=true"]
        self._arguments += ["--set", f"http_port={self.web}"] if web else []
        self._arguments += ["--serial", str(serial)] if serial else []
        self.device = f"socket://127.0.0.1:{serial}"
        self._arguments += [word for setting in settings for word in ("--set", setting)]
        self.start()

    def start(self) -> None:
        self.board = Board(*self._arguments, files=self.files, port=self._port)
        self._port = self.board.address[1]
        if self.web:
            self.board.wait_for("http: port", 30)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.web}" if self.web else f"tftp://127.0.0.1:{self._port}"

    def index(self) -> Index:
        """What the board itself says that it serves."""
        lines = fetch(self.board.address, "tftpd/index.txt").decode().splitlines()
        return {name: (int(size), int(crc, 16)) for crc, size, name in (line.split(" ", 2) for line in lines)}

    def changes(self) -> int:
        """How many files have been stored or removed, by its journal."""
        return sum(bool(re.search(r" (WRQ|PUT|DELETE) .*: done", line)) for line in self.board.console)


def toml(path: Path, boards: dict[str, dict[str, Any]], defaults: dict[str, Any], parallel: int = 20) -> Path:
    """Write a fleet file. A table in it is an inline one."""

    def value(one: Any) -> str:
        if isinstance(one, dict):
            return "{" + ", ".join(f"{key} = {value(item)}" for key, item in one.items()) + "}"
        return json.dumps(str(one) if isinstance(one, Path) else one)

    lines = [f"parallel = {parallel}"]
    for title, table in (("defaults", defaults), *((f"boards.{name}", table) for name, table in boards.items())):
        lines += [f"[{title}]", *(f"{key} = {value(one)}" for key, one in table.items())]
    path.write_text("\n".join(lines))
    return path


def run(file: Path, *words: str, status: int = 0, **environment: str) -> str:
    """What the command prints on standard output."""
    command = [sys.executable, "-m", "tools", "fleet", str(file), *words]
    everything = {**os.environ, **environment}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, env=everything)
    assert done.returncode == status and "Traceback" not in done.stderr, done
    return done.stdout


def told(file: Path, *words: str, status: int = 0, **environment: str) -> dict[str, dict[str, Any]]:
    return json.loads(run(file, *words, "--json", status=status, **environment))["boards"]


def states(result: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: one["state"] for name, one in result.items()}


# -- 20 boards ---------------------------------------------------------------------------------------------------------


class Lab:
    """20 boards: 14 that are well, and others that are off, full, slow, hung, or die while they are filled."""

    WEB = tuple(f"web{number}" for number in range(9))
    TFTP = tuple(f"tftp{number}" for number in range(4))
    WELL = (*WEB, *TFTP, "far")

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        old: dict[str, bytes] = {"hello.txt": b"old", "other.txt": b"other"}
        asked: dict[str, tuple[dict[str, bytes], bool, tuple[str, ...]]] = {
            name: (old if number % 2 else {}, name in self.WEB, ()) for number, name in enumerate(self.WELL)
        }
        asked |= {
            "off": ({}, True, ()),
            "full": ({"large": content(600_000)}, True, ()),
            "tight": ({}, True, ("keep_free=550000",)),
            "slow": ({}, False, ()),
            "hung": ({}, True, ()),
            "dies": ({}, True, ()),
        }
        with ThreadPoolExecutor(10) as pool:
            made = pool.map(lambda item: Server(folder / item[0], item[1][0], item[1][1], *item[1][2]), asked.items())
            self.servers = dict(zip(asked, made, strict=True))
        for server in self.servers.values():
            stack.callback(lambda server=server: server.board.stop())
        stack.callback(lambda: self.hang(signal.SIGCONT))
        relays = {
            name: stack.enter_context(Relay(self.servers[name].board.address[1], delay_ms=delay))
            for name, delay in (("far", 5), ("slow", 100))
        }
        write(folder / "files", FILES)
        write(folder / "many", MANY)
        self.file = folder / "lab.toml"
        self.defaults = {"files": "files", "limit": 60}
        self.boards: dict[str, dict[str, Any]] = {name: {"address": one.url} for name, one in self.servers.items()}
        for name, relay in relays.items():
            self.boards[name] = {"address": f"127.0.0.1:{relay.port}"}
        self.boards["web3"]["delete"] = True
        self.boards["web5"] |= {"settings": {"hostname": "tftpd", "overwrite": True, "windowsize": 4}}
        self.boards["dies"] |= {"files": "many", "limit": 3}
        for name in ("slow", "hung"):
            self.boards[name]["limit"] = 3
        self.write()

    def write(self) -> Path:
        return toml(self.file, self.boards, self.defaults)

    def wanted(self, name: str) -> Index:
        server = self.servers[name]
        kept = (
            {}
            if self.boards[name].get("delete")
            else sums({path.name: path.read_bytes() for path in server.files.iterdir()})
        )
        return kept | sums(MANY if name == "dies" else FILES)

    def hang(self, number: int) -> None:
        """Send SIGSTOP or SIGCONT to the board that hangs, and to its watchdog."""
        board = self.servers["hung"].board
        for process in (board.process.pid, board.emulator):
            os.kill(process, number)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with contextlib.ExitStack() as stack:
        yield Lab(tmp_path_factory.mktemp("lab"), stack)


def test_twenty_boards_at_once_of_which_some_are_off_full_slow_hung_or_die(lab: Lab):
    servers = lab.servers
    servers["off"].board.stop()
    lab.hang(signal.SIGSTOP)
    asked = [name for name in servers if name not in ("off", "hung")]
    before = {name: servers[name].index() for name in asked}

    # plan shows what differs, and changes nothing
    planned = told(lab.file, "plan", status=1)
    assert {planned[name]["state"] for name in (*lab.WELL, "tight", "dies")} == {"differs"}
    changes = {one["name"]: one["text"] for one in planned["web1"]["changes"]}
    assert changes == dict.fromkeys(FILES, "missing on the board") | {
        "hello.txt": "differs: 3 bytes on the board, 14 here"
    }
    assert planned["web1"]["kept"] == ["other.txt"]
    assert {one["name"]: one["change"] for one in planned["web3"]["changes"]}["other.txt"] == "only on the board"
    assert "hello.txt" in run(lab.file, "plan", "web*", status=3)
    assert {name: servers[name].index() for name in asked} == before
    assert not any(servers[name].changes() for name in asked)

    # apply: whatever happens to some, the others are brought to their state
    command = [sys.executable, "-m", "tools", "fleet", str(lab.file), "apply", "--json"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        servers["dies"].board.wait_for("PUT", 30)
        servers["dies"].board.stop()
        output, notes = process.communicate(timeout=60)
    first = json.loads(output)["boards"]
    assert process.returncode == 1 and "Traceback" not in notes
    failed = {name: one["error"] for name, one in first.items() if one["state"] == "failed"}
    assert states(first) == dict.fromkeys(lab.WELL, "changed") | dict.fromkeys(failed, "failed")
    assert failed["off"].endswith("Connection refused")
    assert "bytes more than it has free" in failed["full"]
    assert "boot.bin: no room on the board (507" in failed["tight"]
    assert failed["slow"].startswith("not done within its limit of 3 s")
    assert failed["hung"].endswith("does not answer") or "limit of 3 s" in failed["hung"]
    assert failed["dies"].startswith("not done within its limit of 3 s; http://127.0.0.1:")
    assert re.search(r"^\d+/20 off: failed; ", notes, re.MULTILINE)
    for name in lab.WELL:
        assert servers[name].index() == lab.wanted(name), name
    assert servers["full"].index() == before["full"], "it was asked before anything was changed"
    assert servers["tight"].index() == {name: sum for name, sum in sums(FILES).items() if name != "boot.bin"}

    # all are mended, and the next apply goes on where the first was broken off
    lab.hang(signal.SIGCONT)
    servers["off"].start()
    servers["dies"].start()
    begun = set(servers["dies"].index())
    assert 0 < len(begun) < len(MANY)
    lab.boards["full"]["delete"] = True
    lab.boards["slow"]["address"] = servers["slow"].url
    del lab.boards["tight"]
    for name in ("slow", "hung", "dies"):
        lab.boards[name]["limit"] = 60
    second = told(lab.write(), "apply")
    assert states(second) == dict.fromkeys(lab.WELL, "same") | dict.fromkeys(failed.keys() - {"tight"}, "changed")
    assert {one["name"] for one in second["dies"]["changes"]} == set(MANY) - begun
    assert {one["name"]: one["change"] for one in second["full"]["changes"]} == {"large": "removed"} | dict.fromkeys(
        FILES, "stored"
    )
    for name in lab.boards:
        assert servers[name].index() == lab.wanted(name), name

    # and now there is nothing to do
    changes = {name: servers[name].changes() for name in servers}
    output = run(lab.file, "apply")
    assert output.splitlines()[-1] == "19 boards, 19 same: nothing was changed"
    assert "19 boards, 19 same" in run(lab.file)
    assert {name: servers[name].changes() for name in servers} == changes
    asked_now = told(lab.file, "status", "web0")["web0"]
    assert asked_now["state"] == "serves" and asked_now["free"] > 0 and asked_now["uptime"] > 0


# -- one board over the network ----------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    with contextlib.ExitStack() as stack:

        def start(files: dict[str, bytes], *settings: str, web: bool = True, board: str = "unix") -> Server:
            made = Server(tmp_path / f"board-{len(list(tmp_path.iterdir()))}", files, web, *settings, board=board)
            stack.callback(lambda: made.board.stop())
            return made

        yield start


def one(folder: Path, where: Server, contents: dict[str, bytes], **keys: Any) -> Path:
    """A fleet of one board, which is to have these files."""
    write(folder / "files", contents)
    return toml(folder / "one.toml", {"one": {"address": where.url, **keys}}, {"files": "files", "limit": 40})


def test_the_example_of_the_document(server: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (text,) = re.findall(r"```toml\n(.+?)```", (ROOT / "docs/fleet.md").read_text(), re.DOTALL)
    racks = {"rack1": server({"old": b"x"}, "http_password=sesame"), "rack2": server({}, web=False)}
    text = text.replace("http://192.168.1.21", racks["rack1"].url).replace("192.168.1.22", racks["rack2"].url)
    (tmp_path / "lab.toml").write_text(text)
    write(tmp_path / "files", FILES)
    write(tmp_path / "bench", {})
    monkeypatch.setenv("LAB_WIFI", "secret123")
    monkeypatch.setenv("LAB_HTTP", "sesame")
    assert states(told(tmp_path / "lab.toml", "apply", "rack*")) == {"rack1": "changed", "rack2": "changed"}
    assert all(board.index() == sums(FILES) for board in racks.values())
    (bench,), parallel = fleet_file.load(tmp_path / "lab.toml", ["bench"])
    assert parallel == 8 and bench.settings.keys() == {
        *("ssid", "hostname", "write_from", "overwrite", "password", "http_password")
    }


def test_a_board_that_restarts_in_the_middle_is_waited_for(server: Callable[..., Server], tmp_path: Path):
    board = server({})
    file = one(tmp_path, board, MANY)
    with subprocess.Popen([sys.executable, "-m", "tools", "fleet", str(file), "apply"], cwd=ROOT) as process:
        board.board.wait_for("PUT", 30)
        board.board.stop()
        begun = board.changes()
        board.start()
        assert process.wait(40) == 0
    assert 0 < begun < len(MANY) and board.index() == sums(MANY)
    assert board.changes() <= len(MANY) - begun + 1, "what was stored is not stored again"


def test_ctrl_c_ends_all_and_says_what_was_done(server: Callable[..., Server], tmp_path: Path):
    board = server({}, web=False)
    with Relay(board.board.address[1], delay_ms=50) as relay:
        file = one(tmp_path, board, FILES, address=f"127.0.0.1:{relay.port}")
        command = [sys.executable, "-m", "tools", "fleet", str(file), "apply"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            board.board.wait_for('WRQ "/Gr', 30)
            process.send_signal(signal.SIGINT)
            output, notes = process.communicate(timeout=10)
    assert process.returncode == 130 and "Traceback" not in notes and "1 board, 1 stopped" in output
    assert set(board.index()) == set(FILES) - {"boot.bin"}


def test_a_board_that_takes_no_such_changes_is_told_before_any(server: Callable[..., Server], tmp_path: Path):
    board = server({"hello.txt": b"old"}, "overwrite=false")
    before = board.index()
    for more, reason in (
        ({}, "its setting overwrite is off, and 1 of its files would be replaced"),
        (
            {"settings": {"hostname": "bench"}},
            'its setting hostname is "tftpd", not "bench": is it another board? (firmware',
        ),
    ):
        result = told(one(tmp_path, board, FILES, **more), "apply", status=1)["one"]
        assert result["state"] == "failed" and reason in result["error"], result
        assert board.index() == before
    board = server({}, 'write_from=["192.0.2.1"]')
    result = told(one(tmp_path, board, FILES), "plan", status=1)["one"]
    assert "write_from" in result["error"] and len(result["changes"]) == len(FILES)


def test_a_folder_that_is_missing_is_said_and_the_other_files_are_stored(server: Callable[..., Server], tmp_path: Path):
    for web in (True, False):
        board = server({}, web=web)
        result = told(one(tmp_path, board, {"a": b"a", "sub/b": b"b", "z": b"z"}), "apply", status=1)["one"]
        assert result["error"].startswith("sub/b: it has no such folder"), result
        assert set(board.index()) == {"a", "z"}


def test_names_in_another_case_are_the_same_file(server: Callable[..., Server], tmp_path: Path):
    board = server({"README": b"old", "Boot.ini": b"same"})
    file = one(tmp_path, board, {"readme": b"new", "boot.INI": b"same"}, delete=True)
    assert [change["name"] for change in told(file, "apply")["one"]["changes"]] == ["readme"]
    assert board.index() == sums({"README": b"new", "Boot.ini": b"same"})
    assert states(told(file, "apply")) == {"one": "same"}


def test_compressed_files_take_the_place_of_plain_ones_and_back(server: Callable[..., Server], tmp_path: Path):
    board = server({"text": TEXT})
    file = one(tmp_path, board, {"text": TEXT, "random": content(500)}, compress="auto")
    changes = {change["name"]: change["change"] for change in told(file, "apply")["one"]["changes"]}
    assert changes == {"text.gz": "stored", "text": "removed", "random": "stored"}
    assert board.index().items() >= sums({"text.gz": compress.pack(TEXT), "random": content(500)}).items()
    assert fetch(board.board.address, "text") == TEXT
    assert states(told(file, "apply")) == {"one": "same"}
    file = one(tmp_path, board, {"text": TEXT + b"more", "random": content(500)}, delete=True)
    told(file, "apply")
    assert board.index() == sums({"text": TEXT + b"more", "random": content(500)})


def test_the_password_comes_from_the_environment(server: Callable[..., Server], tmp_path: Path):
    board = server({}, "http_password=sesame")
    file = one(tmp_path, board, FILES, secrets={"http_password": "LAB_PASSWORD"})
    assert "the board wants the password" in told(file, "apply", status=1, LAB_PASSWORD="wrong")["one"]["error"]
    assert "sesame" not in run(file, "apply", LAB_PASSWORD="sesame")
    assert board.index() == sums(FILES)


def test_a_board_with_another_version_is_told_that_only_its_serial_port_brings_a_new_one(
    server: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(fleet, "version", lambda: "9.9.9")
    file = one(tmp_path, server(FILES), FILES)
    assert fleet.run(argparse.Namespace(file=file, action="plan", names=[], json=True)) == 0
    (note,) = json.loads(capsys.readouterr().out)["boards"]["one"]["notes"]
    assert re.fullmatch(r"runs version \S+, this is 9.9.9: firmware and settings change by wire only, .*", note)


def test_a_board_whose_answer_never_ends_is_given_up_at_its_limit(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as trickling:

        def trickle() -> None:
            client, _ = trickling.accept()
            with client, contextlib.suppress(OSError):
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                while True:
                    client.sendall(b" ")
                    time.sleep(0.1)

        threading.Thread(target=trickle, daemon=True).start()
        write(tmp_path / "files", FILES)
        address = f"http://127.0.0.1:{trickling.getsockname()[1]}"
        file = toml(tmp_path / "lab.toml", {"evil": {"address": address, "limit": 1}}, {"files": "files"})
        result = told(file, "apply", status=1)["evil"]
    assert result["error"] == "not done within its limit of 1 s, and it does not end" and result["seconds"] < 6


def test_a_terminal_sees_a_live_table(server: Callable[..., Server], tmp_path: Path):
    file = one(tmp_path, server({}), MANY)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "tools", "fleet", str(file), "apply"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = shown_on(ours)
        assert process.stdout and b"1 board, 1 changed" in process.stdout.read() and process.wait(20) == 0
    assert b"one" in shown and b"many-" in shown and b"1/1" not in shown


# -- by wire -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def wired(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Prompt]]:
    """wired(device, files) is a board at that serial port; run the fleet in this process."""
    prompts: dict[str, Prompt] = {}
    compiled = filesystem.compile_firmware(tmp_path_factory.mktemp("compiled"))
    monkeypatch.setattr(filesystem, "compile_firmware", lambda folder: compiled)
    monkeypatch.setattr(deploy, "Remote", prompts.__getitem__)

    def make(device: str, files: dict[str, bytes]) -> Prompt:
        prompts[device] = Prompt(files)
        return prompts[device]

    yield make
    for one in prompts.values():
        one.end()


def test_boards_by_wire(
    wired: Callable[..., Prompt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    own = {"/settings.json": b'{"ssid": "lab", "password": "old secret", "hostname": "bench"}'}
    ports = {
        "new": wired("/dev/new", {}),
        "old": wired("/dev/old", {"/files/hello.txt": b"old", "/files/other": b"x", **own}),
        "lost": wired("/dev/lost", {}),
    }
    write(tmp_path / "files", FILES)
    monkeypatch.setenv("LAB_WIFI", "new secret")
    defaults = {
        "files": "files",
        "board": "esp32_c3",
        "settings": {"windowsize": 4},
        "secrets": {"password": "LAB_WIFI"},
    }
    file = toml(tmp_path / "lab.toml", {name: {"device": f"/dev/{name}"} for name in ports}, defaults)

    def bring(action: str, status: int) -> dict[str, Any]:
        assert fleet.run(argparse.Namespace(file=file, action=action, names=[], json=True)) == status
        output = capsys.readouterr()
        assert "secret" not in output.out + output.err
        return json.loads(output.out)["boards"]

    trees = {name: one.tree() for name, one in ports.items()}
    planned = bring("plan", 3)
    assert states(planned) == dict.fromkeys(ports, "differs") and planned["old"]["kept"] == ["other"]
    changes = {one["name"]: one["text"] for one in planned["old"]["changes"]}
    assert changes.keys() == {*FILES, "/lib", "/settings.json"}
    assert changes["/settings.json"] == "differs: password, windowsize" and changes["hello.txt"] == "differs"
    assert {name: one.tree() for name, one in ports.items()} == trees
    assert all(one.resets == 1 for one in ports.values()), "each serves again"

    ports["lost"].pieces = 12
    applied = bring("apply", 1)
    assert states(applied) == {"new": "changed", "old": "changed", "lost": "failed"}
    assert "lost the board during the update (gone)" in applied["lost"]["error"]
    for name in ("new", "old"):
        tree = ports[name].tree()
        assert all(tree[f"/files/{path}"] == sha256(data) for path, data in FILES.items())
    assert "/files/other" in ports["old"].tree()
    settings = json.loads(ports["old"]._do("print(open('/settings.json').read())"))
    assert settings == {"ssid": "lab", "password": "new secret", "hostname": "bench", "windowsize": 4}

    ports["lost"].connect()
    assert states(bring("apply", 0)) == {"new": "same", "old": "same", "lost": "changed"}
    trees = {name: one.tree() for name, one in ports.items()}
    assert set(states(bring("apply", 0)).values()) == {"same"}
    assert set(states(bring("plan", 0)).values()) == {"same"}
    assert {name: one.tree() for name, one in ports.items()} == trees
    assert bring("status", 0)["new"]["state"] == "not asked"


def test_ctrl_c_gives_a_board_by_wire_its_server_back(
    wired: Callable[..., Prompt], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    board = wired("/dev/one", {})
    write(tmp_path / "files", FILES)
    boards_of = {"one": {"device": "/dev/one", "board": "esp32_c3", "files": "files"}}
    arguments = argparse.Namespace(
        file=toml(tmp_path / "lab.toml", boards_of, {}), action="apply", names=[], json=False
    )

    def interrupt(code: str) -> str:
        if "/.deploy-0" in code:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)
        return Prompt._run(board, code)

    with monkeypatch.context() as patch:
        patch.setattr(board, "_run", interrupt)
        assert fleet.run(arguments) == 130
    assert "1 board, 1 stopped" in capsys.readouterr().out and board.resets == 1
    board.connect()
    tree = board.tree()
    assert all(tree[f"/files/{path}"] == sha256(data) for path, data in FILES.items()), "these were copied whole"
    assert "/boot.py" not in tree and fleet.run(arguments) == 0
    assert "/boot.py" in board.tree() and not [path for path in board.tree() if ".deploy-" in path]


# -- a genuine board ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def c3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if reason := missing("esp32_c3"):
        pytest.skip(reason)
    files = {"hello.txt": b"old", "other": b"x"}
    made = Server(tmp_path_factory.mktemp("c3"), files, True, board="esp32_c3", serial=free_port())
    yield made
    made.board.stop()


def test_a_genuine_c3_over_the_network(c3: Server, tmp_path: Path):
    for keys in ({}, {"address": f"127.0.0.1:{c3.board.address[1]}", "files": "more"}):
        write(tmp_path / "more", {"more": content(3000)})
        file = one(tmp_path, c3, FILES, board="esp32_c3", **keys)
        assert states(told(file, "apply")) == {"one": "changed"}
        assert states(told(file, "apply")) == {"one": "same"}
    assert c3.index() == sums({**FILES, "other": b"x", "more": content(3000)})
    file = one(tmp_path, c3, FILES, board="rpi_pico_w", delete=True)
    assert "with ESP32C3, but the Pico W has the rp2040" in told(file, "apply", status=1)["one"]["error"]
    assert "more" in c3.index()


def test_a_genuine_c3_by_wire(c3: Server, tmp_path: Path):
    if console_loses(c3.device):
        pytest.skip("the emulated console loses what the board says fast, so no command can rely on it")
    files = {"hello.txt": b"by wire", "new/folder": content(2000)}
    keys = {"device": c3.device, "board": "esp32_c3", "delete": True, "settings": {"hostname": "by-wire"}}
    file = one(tmp_path, c3, files, **keys)
    done = told(file, "apply")["one"]
    assert {change["name"] for change in done["changes"]} >= {*files, "other", "/settings.json"}
    assert c3.index() == sums(files)
    assert told(file, "status")["one"]["hostname"] == "by-wire"
    assert run(file, "apply").endswith("1 board, 1 same: nothing was changed\n")
    assert c3.index() == sums(files)


# -- the file ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[boards.a", "is not TOML: "),
        ("", r"it has no board: give each a table \[boards.NAME\]"),
        ("board = 1", "board: no such key; did you mean boards"),
        ("parallel = 0", "parallel: must be a whole number from 1 to 256, not 0"),
        ("[defaults]\ndevice = '/dev/a'", "defaults.device: no such key"),
        ("[boards]\na = 1", "boards.a must be a table, not 1"),
        ("[boards.a]\nfles = 'x'", "boards.a.fles: no such key; did you mean files"),
        ("[boards.a]\nxyz = 'x'", "boards.a.xyz: no such key: there are device, address, "),
        ("[boards.a]\nfiles = 'x'", "boards.a: it needs a device"),
        ("[boards.a]\naddress = 'b'", "boards.a: it needs files"),
        ("[boards.a]\naddress = 'ftp://b'", "boards.a.address: not the address of a board: ftp://b"),
        ("[boards.a]\naddress = 5", "boards.a.address: must be a text, not 5"),
        ("[boards.a]\ndevice = 'socket://b'", "boards.a.device: expected a serial port"),
        ("[boards.a]\nboard = 'esp'", "boards.a.board: no board is called 'esp'; there are: unix"),
        ("[boards.a]\ndevice = '/dev/a'\nfiles = 'x'", "boards.a: with a device it needs board"),
        ("[boards.a]\ndevice = '/dev/a'\nfiles = 'x'\nboard = 'unix'", "boards.a: with a device it needs board"),
        ("[boards.a]\naddress = 'b'\nfiles = 'x'", "boards.a.files: .*x is not a folder"),
        ("[boards.a]\naddress = 'b'\nfiles = '.'\ndelete = true", "boards.a.delete: TFTP can't remove files"),
        (
            "[boards.a]\naddress = 'http://b'\nfiles = 'empty'\ndelete = true",
            "boards.a.delete: .*empty is empty, so this",
        ),
        ("[boards.a]\ndelete = 'yes'", 'boards.a.delete: must be true or false, not "yes"'),
        ("[boards.a]\ncompress = true", 'boards.a.compress: must be "auto" or "all", not true'),
        ("[boards.a]\nlimit = '5 s'", "boards.a.limit: must be a whole number from 1 to 86400"),
        ("[boards.a]\nsettings = 1", "boards.a.settings: must be a table"),
        ("[boards.a.settings]\nat = 2026-01-01", 'boards.a.settings: at can\'t be "2026-01-01"'),
        ("[boards.a.settings]\npassword = 'secret'", "boards.a.settings: password is a secret: name a variable"),
        ("[boards.a.secrets]\npasword = 'X'", 'boards.a.secrets: no secret is called "pasword"; did you mean password'),
        ("[boards.a.secrets]\npassword = 5", "boards.a.secrets: password must be the name of a variable"),
        (
            "[boards.a]\naddress = 'b'\nfiles = '.'\nsettings = {windowsiz = 4}",
            'boards.a.settings: no setting is called "windowsiz"; did you mean windowsize',
        ),
        (
            "[defaults]\nfiles = '.'\n[boards.a]\naddress = 'http://b'\nsecrets = {http_password = 'NO_SUCH'}",
            "boards.a.secrets.http_password: the variable NO_SUCH is not set, or empty",
        ),
        (
            "[defaults]\nfiles = '.'\n[boards.a]\naddress = 'b'\n[boards.b]\naddress = 'tftp://b:69'",
            "boards.b.address: that is the address of a, too",
        ),
    ],
)
def test_a_bad_file_is_one_line_that_names_the_board_and_the_key(tmp_path: Path, text: str, complaint: str):
    (tmp_path / "lab.toml").write_text(text)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ToolError, match=complaint) as raised:
        fleet_file.load(tmp_path / "lab.toml", [])
    assert str(raised.value).startswith(str(tmp_path / "lab.toml")) and "\n" not in str(raised.value)


def test_bad_input_is_one_line_and_a_status(tmp_path: Path):
    assert "can't read" in complain("fleet", tmp_path / "missing.toml")
    (tmp_path / "lab.toml").write_text("[boards.rack1]\naddress = 'b'\nfiles = '.'")
    assert "no board is called rac1; did you mean rack1?" in complain("fleet", tmp_path / "lab.toml", "plan", "rac1")
    assert "invalid choice: 'rack1'" in complain("fleet", tmp_path / "lab.toml", "rack1")
    (tmp_path / "lab.toml").write_bytes(b"\xff")
    assert "is not UTF-8 text" in complain("fleet", tmp_path / "lab.toml")


def test_defaults_hold_for_all_boards_and_tables_are_merged(tmp_path: Path):
    boards_of = {"b1": {"address": "b1"}, "b2": {"address": "http://b2", "settings": {"port": 70}, "delete": True}}
    defaults = {"files": tmp_path, "limit": 5, "settings": {"port": 69, "windowsize": 4}}
    file = toml(tmp_path / "lab.toml", boards_of, defaults, parallel=3)
    (first, second), parallel = fleet_file.load(file, [])
    assert (parallel, first.limit, first.delete, second.delete) == (3, 5, False, True)
    assert first.settings == {"port": 69, "windowsize": 4} and second.settings == {"port": 70, "windowsize": 4}
    assert [board.name for board in fleet_file.load(file, ["*2"])[0]] == ["b2"]
    assert [board.where for board in (first, second)] == ["tftp://b1", "http://b2"]
