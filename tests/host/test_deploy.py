"""`python -m tools deploy`: changes to the flash, with MicroPython's Unix port as the board's prompt, and the whole
command on the genuine firmware of an emulated ESP32-C3."""

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from board import ROOT, Board, missing
from client import fetch
from command import complain, until
from prompt import FACTS, Prompt, console_loses, sha256
from served import content
from tools import ToolError, deploy, filesystem


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return filesystem.compile_firmware(tmp_path_factory.mktemp("compiled"))


@pytest.fixture
def prompt(compiled: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Prompt]]:
    """prompt(files) is a board with these files on its flash."""
    made: list[Prompt] = []
    monkeypatch.setattr(filesystem, "compile_firmware", lambda folder: compiled)

    def make(files: dict[str, bytes]) -> Prompt:
        made.append(Prompt(files))
        return made[-1]

    yield make
    for one in made:
        one.end()


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[dict[str, bytes]], Path]:
    """folder(files) is a folder with these files in it."""

    def make(files: dict[str, bytes]) -> Path:
        where = tmp_path / str(len(list(tmp_path.iterdir())))
        where.mkdir()
        for name, data in files.items():
            (where / name).parent.mkdir(parents=True, exist_ok=True)
            (where / name).write_bytes(data)
        return where

    return make


def fill(
    on: Prompt,
    where: Path,
    *pairs: str,
    settings: dict | None = None,
    delete: bool = False,
    compressed: str | None = None,
) -> deploy.Plan:
    done = deploy.compare(on, FACTS, where, settings, list(pairs), delete, compressed)
    deploy.carry_out(on, done, lambda *_: None)
    return done


# On the flash


def test_only_what_changed_is_copied(prompt, folder):
    board = prompt({"/files/same": b"same", "/files/old": b"old", "/files/sub/other": b"x", "/data": b"the user's"})
    where = folder({"same": b"same", "old": b"new", "deep/er/new": content(5000), ".hidden": b"x"})
    done = fill(board, where, settings={"ssid": "lab"})
    assert set(done.served) == {"/files/old", "/files/deep/er/new"} and set(done.unchanged) == {"/files/same"}
    assert {"/boot.py", "/main.py", "/board.json", "/settings.json", "/lib/link.mpy"} <= set(done.server)
    tree = board.tree()
    assert tree["/files/old"] == sha256(b"new") and tree["/files/deep/er/new"] == sha256(content(5000))
    assert tree["/files/sub/other"] == sha256(b"x") and tree["/data"] == sha256(b"the user's")
    assert tree["/settings.json"] == sha256(b'{"ssid": "lab"}')
    assert all(tree[path] == sha256(data) for path, data in done.server.items())
    assert not [path for path in tree if "/." in path]
    done = fill(board, where)
    assert not done.served and not done.server and not done.removed and board.tree() == tree


def test_delete_removes_what_the_folder_does_not_have(prompt, folder):
    kept = {"/files/.cache/hidden": b"h", "/data": b"d", "/lib/mine.py": b"m"}
    board = prompt({"/files/a": b"a", "/files/deep/er/b": b"b", **kept})
    done = fill(board, folder({"a": b"a"}), settings={}, delete=True)
    assert set(done.removed) == {"/files/deep/er/b"}
    tree = board.tree()
    assert "/files/a" in tree and kept.keys() <= tree.keys() and "/files/deep" not in board.listing("/files")


def test_a_compressed_file_takes_the_place_of_the_plain_one(prompt, folder):
    text, more = b"a line that comes again\n" * 500, b"another line\n" * 900
    where = folder({"text": text, "sub/more": more, "random": content(9000)})
    board = prompt({"/files/text": text, "/files/sub/more": b"old", "/files/other": b"the user's"})
    done = fill(board, where, settings={}, compressed="auto")
    assert set(done.served) == {"/files/text.gz", "/files/sub/more.gz", "/files/random"}
    assert set(done.unpacked) == {"/files/text", "/files/sub/more"}
    assert "2 of 3 files are compressed" in done.saved
    there = {path for path in board.tree() if path.startswith("/files/")}
    assert there == {"/files/text.gz", "/files/sub/more.gz", "/files/random", "/files/other"}
    done = fill(board, where, compressed="auto")
    assert not done.served and not done.unpacked and set(done.unchanged) >= there - {"/files/other"}
    done = fill(board, where, delete=True)  # and back
    assert {path for path in board.tree() if path.startswith("/files/")} == {
        "/files/text",
        "/files/sub/more",
        "/files/random",
    }
    assert set(done.removed) == {"/files/text.gz", "/files/sub/more.gz", "/files/other"}


def test_a_plain_file_goes_first_where_the_compressed_one_does_not_fit_beside_it(prompt, folder):
    half = content(120_000, 1)
    where = folder({"large": half + half[:100] * 1400})
    board = prompt({"/files/large": content(270_000, 2)})
    fill(board, where, settings={}, compressed="auto")
    assert {path for path in board.tree() if path.startswith("/files/")} == {"/files/large.gz"}


def test_sources_and_modules_of_an_earlier_server_are_replaced(prompt, folder):
    old = {"/lib/settings.py": b"raise SystemExit", "/lib/tftpd/__init__.py": b"x", "/lib/tftpd/gone.mpy": b"x"}
    board = prompt({**old, "/lib/mine.py": b"m"})
    assert fill(board, folder({}), settings={}).replaced.keys() == old.keys()
    tree = board.tree()
    assert not old.keys() & tree.keys() and "/lib/settings.mpy" in tree and "/lib/mine.py" in tree


def test_new_settings_override_those_on_the_board(prompt, folder):
    board = prompt({"/settings.json": b'{"ssid": "lab", "port": 70, "root": "/srv"}'})
    where = folder({"a": b"a"})
    fill(board, where)
    assert "/srv/a" in board.tree()
    fill(board, where, "port=71")
    assert json.loads(board._do("print(open('/settings.json').read())")) == {"ssid": "lab", "port": 71, "root": "/srv"}
    for text, complaint in ((b"{", "not a JSON object"), (b"[]", "not a JSON object"), (b'{"root": "/"}', "root must")):
        with pytest.raises(ToolError, match=complaint):
            fill(prompt({"/settings.json": text}), where)


def test_a_folder_replaces_a_file_of_the_same_name_and_vice_versa(prompt, folder):
    board = prompt({"/files/a/b": b"x", "/files/c": b"x", "/files/empty/-": b"x"})
    board.remove(["/files/empty/-"])
    before = board.tree()
    for names in ({"a": b"file"}, {"c/d": b"folder"}):
        with pytest.raises(ToolError, match=r"/files/[ac](/d)? would be both a file and a folder: --delete"):
            fill(board, folder(names), settings={})
    assert board.tree() == before
    fill(board, folder({"a": b"file", "c/d": b"folder", "empty": b"file"}), settings={}, delete=True)
    assert {path for path in board.tree() if path.startswith("/files")} == {"/files/a", "/files/c/d", "/files/empty"}


def test_folders_for_uploads_are_created(prompt, folder):
    where = folder({"a": b"a"})
    (where / "in" / "sub").mkdir(parents=True)
    board = prompt({"/settings.json": b'{"write_to": ["/in"], "write_from": ["0.0.0.0/0"]}', "/files/x": b"x"})
    fill(board, where)
    assert {path for path, size in board.listing("/files", True).items() if size is None} == {
        "/files/in",
        "/files/in/sub",
    }
    with pytest.raises(ToolError, match="/files/x would be both a file and a folder"):
        fill(board, where, 'write_to=["/x"]')
    with pytest.raises(ToolError, match=r"write_to names the folder /a, but a in .* is a file"):
        fill(board, where, 'write_to=["/a"]')
    many = "write_to=[" + ", ".join(f'"/{number}/a/b"' for number in range(60)) + "]"
    with pytest.raises(ToolError, match="bytes more than the board has free"):
        fill(board, where, many)
    assert "/files/0" not in board.listing("/files")


def test_wherever_the_board_disconnects_each_file_is_the_old_or_the_new_one(prompt, folder):
    old = {"/files/a": content(9000, 1), "/files/b": b"old", "/files/gone": b"x", "/lib/settings.py": b"old"}
    new = {"a": content(9000, 2), "b": b"new", "c/d": content(4000, 3)}
    where = folder(new)
    allowed = {path: {sha256(data), None} for path, data in old.items()}
    allowed |= {f"/files/{name}": {sha256(data), sha256(old.get(f"/files/{name}", b""))} for name, data in new.items()}
    whole = prompt(old)
    done = fill(whole, where, settings={}, delete=True)
    goal, pieces = whole.tree(), 0
    while True:
        board = prompt(old)
        board.pieces = pieces
        try:
            fill(board, where, settings={}, delete=True)
            break
        except ToolError as error:
            assert "lost the board during the update (gone); files that were copied whole stay on it" in str(error)
        board.connect()
        tree = board.tree()
        for path in allowed.keys() & tree.keys():
            assert tree[path] in allowed[path], (pieces, path)
        assert {"/files/a", "/files/b"} <= tree.keys(), "what is replaced was always there"
        # The server's files change together.
        assert len(done.server.keys() & tree.keys()) in (0, len(done.server)), pieces
        fill(board, where, settings={}, delete=True)
        assert board.tree() == goal, "the next time it comes to its end"
        pieces += 3
    assert pieces > 60


def test_files_that_do_not_fit_are_refused_before_any_change(prompt, folder):
    board = prompt({"/files/a": content(100_000), "/files/b": content(200_000)})
    before = board.tree()
    with pytest.raises(ToolError, match=r"need [\d,]+ bytes more than the board has free: .*with --delete"):
        fill(board, folder({"c": content(300_000)}), settings={})
    with pytest.raises(ToolError, match=r"need [\d,]+ bytes more than the board has free: leave some out$"):
        fill(board, folder({"c": content(500_000)}), settings={}, delete=True)
    assert board.tree() == before
    # With that much less it fits.
    missing, size = 1, 600_000
    while missing:
        try:
            fill(board, folder({"c": content(size)}), settings={}, delete=True)
            missing = 0
        except ToolError as error:
            missing = int(re.findall(r"[\d,]+", str(error))[0].replace(",", ""))
            size -= missing
    assert size > 250_000 and board.tree()["/files/c"] == sha256(content(size))


def test_a_file_too_large_beside_its_old_version_replaces_it_in_place(prompt, folder):
    board = prompt({"/files/shrinks": content(90_000), "/files/large": content(230_000)})
    done = fill(board, folder({"shrinks": b"", "large": content(252_000, 2)}), settings={})
    assert done.notes == ["both versions of /files/large don't fit: removed the old one first"]
    tree = board.tree()
    assert tree["/files/large"] == sha256(content(252_000, 2)) and tree["/files/shrinks"] == sha256(b"")
    assert done.free < 150_000


def test_a_damaged_copy_is_detected(prompt, folder, monkeypatch):
    board = prompt({"/files/a": b"old"})
    run = Prompt._run
    monkeypatch.setattr(Prompt, "_run", lambda self, code: run(self, code.replace("bmV3", "bmV4")))
    with pytest.raises(ToolError, match="other bytes than were sent"):
        fill(board, folder({"a": b"new"}), settings={})
    assert board.tree()["/files/a"] == sha256(b"old")


# Bad input, without a board


def test_bad_input_is_one_line(tmp_path: Path):
    def bad(*arguments: object, board: str = "esp32_c3", files: Path = ROOT / "files") -> str:
        return complain("deploy", "--board", board, "--files", files, "--device", "/nowhere/tty", *arguments)

    (tmp_path / "bad.json").write_text('{"ssid": ')
    assert "can't open /nowhere/tty: is the board plugged in" in bad()
    assert "no board is called 'nope'" in bad(board="nope")
    assert "not for deploy" in bad(board="unix")
    assert "is not a folder" in bad(files=tmp_path / "missing")
    assert "are not JSON" in bad("--settings", tmp_path / "bad.json")
    assert "can't read" in bad("--settings", tmp_path / "missing.json")
    assert 'no setting is called "sid"' in bad("--set", "sid=lab")
    assert "takes KEY=VALUE" in bad("--set", "ssid")
    assert "--files" in complain("deploy", "--board", "esp32_c3")
    assert "can't open foo://bar" in bad("--device", "foo://bar")


def test_a_missing_board_is_reported(monkeypatch):
    monkeypatch.setattr("serial.tools.list_ports.comports", lambda: [])
    nothing = argparse.Namespace(
        board="esp32_c3", files=ROOT / "files", device=None, settings=None, set=[], delete=False, json=False
    )
    with pytest.raises(ToolError, match="no board is connected"):
        deploy.run(nothing)


def test_a_port_that_is_not_a_board_is_reported(monkeypatch):
    monkeypatch.setattr(deploy, "_PROMPT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        device = f"socket://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ToolError, match=f"{device} shows no MicroPython prompt .*does it run MicroPython"):
            deploy.Remote(device)


# On genuine firmware


class Live:
    """An emulated ESP32-C3 that serves `files`, and deploy at its serial port."""

    def __init__(self, files: Path, log: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.board = Board("--board", "esp32_c3", "--serial", str(port), "--log", str(log), files=files)
        self._log = log
        self.device = f"socket://127.0.0.1:{port}"

    def command(self, where: Path, *arguments: object) -> list[str]:
        options = ["--board", "esp32_c3", "--device", self.device, "--files", where, *arguments]
        return [sys.executable, "-m", "tools", "deploy", *map(str, options)]

    def deploy(self, where: Path, *arguments: object) -> dict[str, tuple[int, int]]:
        """The summary: files and bytes."""
        result = subprocess.run(self.command(where, *arguments), cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0 and result.stderr == "waiting until it serves\n", result.stderr
        assert result.stdout.splitlines()[-1].startswith("serving tftp://10.")
        rows = re.findall(r"^ ?(\w[\w, ]*?)  +(\d+)  +([\d,]+) *$", result.stdout, re.MULTILINE)
        return {what: (int(files), int(size.replace(",", ""))) for what, files, size in rows}

    def interrupted(self, where: Path, number: int) -> int:
        """Deploy, and send a signal once the progress shows the middle of big.bin; returns the exit status."""
        ours, theirs = os.openpty()
        with subprocess.Popen(self.command(where), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=theirs) as process:
            os.close(theirs)
            seen, end = b"", time.monotonic() + 30
            while not re.search(rb"big\.bin \S+ [3-9]\.\d/24\.0 kB", seen):
                assert time.monotonic() < end, seen
                seen = re.sub(rb"\x1b\[[\d;?]*\w", b"", seen + os.read(ours, 4096))
            process.send_signal(number)
            status = process.wait(30)
        os.close(ours)
        return status

    def starts(self) -> int:
        """The number of times that the board has reported that it serves."""
        return self._log.read_bytes().count(b" ready on ")

    def mpremote(self, *arguments: str, seconds: float = 60) -> str:
        command = [sys.executable, "-m", "mpremote", "connect", self.device, "resume", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=True).stdout


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    if reason := missing("esp32_c3"):
        pytest.skip(reason)
    where = tmp_path_factory.mktemp("served")
    (where / "big.bin").write_bytes(content(20_000, 1))
    (where / "same").write_bytes(b"same")
    one = Live(where, where.with_name("console.log"))
    with one.board:
        if console_loses(one.device):
            pytest.skip("the emulated console loses what the board says fast, so no command can rely on it")
        yield one


def test_only_what_changed_is_copied_to_a_board_that_serves(live: Live, folder):
    where = folder({"big.bin": content(20_000, 1), "same": b"same", "new/Grüße.txt": b"new"})
    said = live.deploy(where)
    assert said["served, copied"] == (1, 3) and said["the server and its settings, copied"] == (0, 0)
    assert fetch(live.board.address, "new/Grüße.txt") == b"new" and fetch(live.board.address, "same") == b"same"
    said = live.deploy(where, "--set", "hostname=filled", "--delete")
    assert said["served, copied"] == (0, 0) and said["the server and its settings, copied"][0] == 1
    assert '"ssid": "PICSimLabWifi"' in live.mpremote("cat", ":settings.json"), "the board's own settings stay"


def test_an_interrupted_deploy_leaves_no_partial_file(live: Live, folder):
    where = folder({"big.bin": content(24_000, 2), "same": b"same"})
    before = live.mpremote("sha256sum", ":files/big.bin")
    assert live.interrupted(where, signal.SIGKILL) == -signal.SIGKILL
    assert live.mpremote("sha256sum", ":files/big.bin") == before and ".deploy-" in live.mpremote("ls", ":")
    # After Ctrl-C the board serves its old files again.
    starts = live.starts()
    assert live.interrupted(where, signal.SIGINT) == 130
    until(lambda: live.starts() > starts)
    old = fetch(live.board.address, "big.bin")
    assert sha256(old) in before
    assert live.deploy(where)["served, copied"] == (1, 24_000)
    assert fetch(live.board.address, "big.bin") == content(24_000, 2) and ".deploy-" not in live.mpremote("ls", ":")


def test_bad_input_is_one_line_and_the_board_continues_to_serve(live: Live, folder):
    def bad(where: Path, board: str = "esp32_c3") -> str:
        starts = live.starts()
        said = complain("deploy", "--board", board, "--device", live.device, "--files", where)
        until(lambda: live.starts() > starts)
        return said

    assert "bytes more than the board has free" in bad(folder({"big.bin": bytes(3_000_000)}))
    assert "is a ESP32C3 module with ESP32C3, but the Pico W has the rp2040" in bad(folder({}), board="rpi_pico_w")
    assert fetch(live.board.address, "same") == b"same"
