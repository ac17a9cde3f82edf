"""`python -m tools firmware`: downloads from a server on loopback, the cache, and their failures."""

import contextlib
import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from board import ROOT
from command import complain
from made import FACTORY, NVS, made_esp, made_uf2, table
from tools import boards, firmware

PICO = "RPI_PICO_W-20250911-v1.26.1.uf2"
S3 = "ESP32_GENERIC_S3-20250911-v1.26.1.bin"  # a file without a hash in board.json


class Mirror:
    """A web server for `files` that records requests in `asked` and sends only half of the files in `cut`."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: set[str] = set()
        self.asked: list[str] = []
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rsplit("/", 1)[1]
                mirror.asked.append(name)
                if name not in mirror.files:
                    self.send_error(404)
                    return
                data = mirror.files[name]
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2] if name in mirror.cut else data)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/firmware/"

    @contextlib.contextmanager
    def running(self) -> Iterator["Mirror"]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        thread.start()
        yield self
        self._server.shutdown()
        thread.join()
        self._server.server_close()


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with Mirror().running() as running:
        yield running


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the firmware files in an empty cache."""
    monkeypatch.setenv("MICROPYTHON_TFTPD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "firmware"


def get(*arguments: object) -> str:
    command = [sys.executable, "-m", "tools", "firmware", *map(str, arguments)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def left(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.glob("*"))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_the_cache_is_in_the_user_folder_or_in_that_of_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MICROPYTHON_TFTPD_CACHE", raising=False)
    assert firmware.cache().name == "micropython-tftpd" and firmware.cache().is_absolute()
    monkeypatch.setenv("MICROPYTHON_TFTPD_CACHE", "/elsewhere")
    assert firmware.cache() == Path("/elsewhere")


def test_a_genuine_file_is_downloaded_checked_and_kept(mirror: Mirror, tmp_path: Path, monkeypatch):
    genuine = firmware.cache() / "firmware" / PICO
    if not genuine.is_file():
        pytest.skip(f"no {PICO} in the cache: python -m tools firmware --board rpi_pico_w")
    monkeypatch.setenv("MICROPYTHON_TFTPD_CACHE", str(tmp_path))
    mirror.files[PICO] = genuine.read_bytes()
    said = get("--board", "rpi_pico_w", "--mirror", mirror.url)
    assert "MicroPython v1.26.1 for Raspberry Pi Pico W with RP2040, 1,750,016 bytes" in said
    assert "as in board.json" in said and left(tmp_path / "firmware") == [PICO]
    kept = tmp_path / "firmware" / PICO
    assert kept.read_bytes() == genuine.read_bytes()
    assert firmware.base_image(boards.load("rpi_pico_w")) == kept
    assert mirror.asked == [PICO], "it is downloaded once"
    # A damaged file in the cache is downloaded again, or reported without a connection.
    kept.write_bytes(b"damaged")
    mirror.files.clear()
    assert "the file in the cache is damaged" in complain(
        "firmware", "--board", "rpi_pico_w", "--mirror", mirror.url.rstrip("/")
    )
    mirror.files[PICO] = genuine.read_bytes()
    get("--board", "rpi_pico_w", "--mirror", mirror.url)
    assert kept.read_bytes() == genuine.read_bytes()
    # The same file put in by hand, under any name.
    kept.unlink()
    (tmp_path / "other.uf2").write_bytes(genuine.read_bytes())
    assert "as in board.json" in get("--board", "rpi_pico_w", "--from", tmp_path / "other.uf2")
    assert left(tmp_path / "firmware") == [PICO]


def test_a_corrupt_download_leaves_no_file(mirror: Mirror, cache: Path):
    known = boards.load("rpi_pico_w")["firmware"][0]["sha256"]
    mirror.files[PICO] = made_uf2()
    said = complain("firmware", "--board", "rpi_pico_w", "--mirror", mirror.url)
    assert f"its SHA-256 is not {known}; it was discarded" in said and left(cache) == []
    mirror.cut.add(PICO)
    assert "the connection broke" in complain("firmware", "--board", "rpi_pico_w", "--mirror", mirror.url)
    mirror.files[S3] = made_esp("esp32s3", table(NVS, FACTORY))
    mirror.cut.add(S3)
    assert "the connection broke" in complain("firmware", "--board", "esp32_s3", "--mirror", mirror.url)
    mirror.cut.clear()
    mirror.files[S3] = b"<html>Log in to the network of this hotel</html>"
    assert "is not firmware" in complain("firmware", "--board", "esp32_s3", "--mirror", mirror.url)
    mirror.files[S3] = made_esp("esp32c3", table(NVS, FACTORY))
    assert "is for the esp32c3" in complain("firmware", "--board", "esp32_s3", "--mirror", mirror.url)
    assert left(cache) == []


def test_without_a_connection_the_message_says_which_file_to_put_where(mirror: Mirror, cache: Path):
    said = complain("firmware", "--board", "rpi_pico_w", "--mirror", mirror.url)
    assert f"(status 404): download it elsewhere and copy it to {cache / PICO}" in said
    said = complain("firmware", "--board", "rpi_pico_w", "--mirror", "http://127.0.0.1:9/")
    assert (
        f"(127.0.0.1:9 can't be reached, or the connection broke): download it elsewhere and copy it to {cache}" in said
    )
    # The command that needs the file gives the same message.
    proxies = {"https_proxy": "http://127.0.0.1:9/", "HTTPS_PROXY": "http://127.0.0.1:9/"}
    arguments = ("image", "--board", "rpi_pico_w", "--files", ROOT / "files", "-o", cache.parent / "out.uf2")
    said = complain(*arguments, environment=proxies)
    assert f"can't download https://micropython.org/resources/firmware/{PICO}" in said
    assert f"copy it to {cache / PICO}" in said
    assert not cache.parent.exists() or not (cache.parent / "out.uf2").exists()


def test_an_unknown_hash_is_recorded_at_the_first_download_and_checked_later(mirror: Mirror, cache: Path):
    data = made_esp("esp32s3", table(NVS, FACTORY))
    mirror.files[S3] = data
    said = get("--board", "esp32_s3", "--mirror", mirror.url)
    assert f"was not known; recorded: {sha256(data)}" in said and "not in board.json" in said
    assert (cache / f"{S3}.sha256").read_text() == f"{sha256(data)}  {S3}\n"
    assert "was not known" not in get("--board", "esp32_s3", "--mirror", mirror.url) and mirror.asked == [S3]
    # Later downloads must be the same.
    (cache / S3).unlink()
    mirror.files[S3] = data + b"x"
    assert f"is not {sha256(data)}" in complain("firmware", "--board", "esp32_s3", "--mirror", mirror.url)
    other = cache.parent / S3
    other.write_bytes(data + b"x")
    assert "differs from the" in complain("firmware", "--board", "esp32_s3", "--from", other)


@pytest.mark.parametrize("note", [b"", b"\n", b"\xff\xfe", b"0123  name\n", b"x" * 70])
def test_a_record_without_a_hash_is_one_line(cache: Path, note: bytes):
    cache.mkdir(parents=True)
    (cache / S3).write_bytes(made_esp("esp32s3", table(NVS, FACTORY)))
    (cache / f"{S3}.sha256").write_bytes(note)
    said = complain("firmware", "--board", "esp32_s3")
    assert f"{S3}.sha256 holds no SHA-256: remove it, and that of {S3} is recorded again" in said


def test_a_file_that_is_put_into_the_cache_by_hand_is_recorded(cache: Path):
    cache.mkdir(parents=True)
    data = made_esp("esp32s3", table(NVS, FACTORY))
    (cache / S3).write_bytes(data)
    assert sha256(data) in get("--board", "esp32_s3")
    assert left(cache) == [S3, f"{S3}.sha256"]


def test_a_firmware_file_of_the_user_is_taken_with_allow_unknown(cache: Path, tmp_path: Path):
    own = tmp_path / "RPI_PICO_W-20300101-v9.9.9.uf2"
    own.write_bytes(made_uf2())
    said = complain("firmware", "--board", "rpi_pico_w", "--from", own)
    assert sha256(own.read_bytes()) in said and "--allow-unknown takes it" in said and left(cache) == []
    assert "is for the rp2040" in complain("firmware", "--board", "rpi_pico2_w", "--from", own, "--allow-unknown")
    said = get("--board", "rpi_pico_w", "--from", own, "--allow-unknown")
    assert "MicroPython v9.9.9 for Test board with RP2040" in said and "recorded, not verified" in said
    board = boards.load("rpi_pico_w")
    assert firmware.base_image(board, "9.9.9") == firmware.base_image(board, "v9.9.9") == cache / own.name
    (cache / own.name).write_bytes(b"changed")
    assert "take it again" in complain("firmware", "--board", "rpi_pico_w", "--version", "9.9.9")


def test_bad_input_is_one_line(cache: Path, tmp_path: Path):
    assert "no board is called 'nope'" in complain("firmware", "--board", "nope")
    assert "--board" in complain("firmware")
    assert "no firmware to flash" in complain("firmware", "--board", "unix")
    assert "no firmware to flash" in complain("firmware", "--board", "unix", "--from", __file__)
    assert (
        "no firmware v0.1 is known for this board, only v1.26.1, v1.25.0; the newest release is v1.29.0 ("
        in complain("firmware", "--board", "rpi_pico_w", "--version", "0.1")
    )
    for version in ("", "**", "../x"):
        assert f"no firmware v{version} is known" in complain("firmware", "--board", "rpi_pico_w", "--version", version)
    assert "can't read" in complain("firmware", "--board", "rpi_pico_w", "--from", tmp_path / "missing")
    assert "can't read" in complain("firmware", "--board", "rpi_pico_w", "--from", tmp_path)
    cut = tmp_path / "cut.bin"
    cut.write_bytes(made_esp("esp32", table(NVS, FACTORY))[:-50])
    assert "cut.bin is truncated or damaged" in complain(
        "firmware", "--board", "esp32", "--from", cut, "--allow-unknown"
    )
    assert "is not firmware" in complain("firmware", "--board", "rpi_pico_w", "--from", __file__)
    named = tmp_path / PICO
    named.write_bytes(made_uf2())
    said = complain("firmware", "--board", "rpi_pico_w", "--from", named, "--allow-unknown")
    assert "is damaged or not what its name says" in said
    for url in ("ftp://x/", "http://", ""):
        assert "--mirror: expected a URL" in complain("firmware", "--board", "rpi_pico_w", "--mirror", url)
    assert left(cache) == []
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    own = tmp_path / "own.uf2"
    own.write_bytes(made_uf2())
    arguments = ("firmware", "--board", "rpi_pico_w", "--from", own, "--allow-unknown")
    assert "can't create" in complain(*arguments, environment={"MICROPYTHON_TFTPD_CACHE": str(blocked)})
    assert "can't create" in complain(
        *("firmware", "--board", "rpi_pico_w", "--mirror", "http://127.0.0.1:9/"),
        environment={"MICROPYTHON_TFTPD_CACHE": str(blocked)},
    )
