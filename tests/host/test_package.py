"""package.json and firmware/manifest.py list every module of the firmware, and mip installs it with its page."""

import ast
import functools
import gzip
import io
import json
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mpremote.mip
import pytest

import tools
from board import ROOT
from tools import boards, filesystem, release

FIRMWARE = ROOT / "firmware"
MODULES = {
    path.relative_to(FIRMWARE).as_posix(): path.read_bytes()
    for path in FIRMWARE.rglob("*.py")
    if path.name != "manifest.py"
}
ASSETS = {f"tftpd/page.{kind}": (FIRMWARE / f"tftpd/page.{kind}").read_bytes() for kind in ("css", "js")}
INSTALLED = MODULES | ASSETS
PACKAGE = json.loads((ROOT / "package.json").read_text())


# Runs a server with the modules in the folders of a list.
SERVER = """import sys; sys.path[:0] = {!r}; import link, panel, settings, tftpd
chosen = settings.defaults()
chosen.update({{'address': '127.0.0.1', 'port': 0, 'ssid': 'x', 'root': '/'}})
server = tftpd.Server(chosen)
server.poll(0)
server.stop()"""


def test_package_json_names_every_module_of_the_firmware_and_what_its_page_needs():
    assert {target: source for target, source in PACKAGE["urls"]} == {name: f"firmware/{name}" for name in INSTALLED}
    assert len(PACKAGE["urls"]) == len(INSTALLED) and set(PACKAGE) == {"urls", "deps", "version"}


def test_the_version_is_that_of_the_project():
    version = PACKAGE["version"]
    assert version == tools.version()  # which the package takes too (tests/host/test_wheel.py)
    assert f'version="{version}"' in (FIRMWARE / "manifest.py").read_text()


class Flash:
    """The operations that mpremote's mip needs of a board, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def fs_exists(self, path: str) -> bool:
        return (self._folder / path.lstrip("/")).exists()

    def fs_mkdir(self, path: str) -> None:
        (self._folder / path.lstrip("/")).mkdir()

    def fs_writefile(self, path: str, data: bytes, progress_callback: object) -> None:
        (self._folder / path.lstrip("/")).write_bytes(data)


def installed(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_mpremote_installs_from_a_local_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    for number, package in enumerate(("package.json", "./package.json", f"{ROOT}/package.json")):
        flash = tmp_path / str(number)
        flash.mkdir()
        mpremote.mip._install_package(Flash(flash), package, "index", "/lib", None, True)
        assert installed(flash / "lib") == INSTALLED


def test_mpremote_installs_from_github(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def urlopen(url: str) -> io.BytesIO:
        asked.append(url)
        where, _, path = url.partition("/v1.2/")
        assert where.endswith("/somebody/micropython-tftpd"), url
        return io.BytesIO((ROOT / path).read_bytes())

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    package = "github:somebody/micropython-tftpd"
    mpremote.mip._install_package(Flash(tmp_path), package, "index", "/lib", "v1.2", True)
    assert installed(tmp_path / "lib") == INSTALLED and len(asked) == len(INSTALLED) + 1


def test_mpremote_installs_the_compiled_modules_of_a_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    release._write_mip(tmp_path / "bundle.zip", 1_700_000_000)
    with zipfile.ZipFile(tmp_path / "bundle.zip") as archive:
        archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path / "bundle")
    for name in ("boot.py", "main.py"):
        assert Path(name).read_bytes() == (ROOT / name).read_bytes()
    flash = tmp_path / "flash"
    flash.mkdir()
    mpremote.mip._install_package(Flash(flash), "./package.json", "index", "/lib", None, True)
    compiled = filesystem.compile_firmware(tmp_path)
    assert installed(flash / "lib") == compiled
    paths = [str(flash / "lib"), str(ROOT / "board/unix/shims")]
    result = subprocess.run(
        [boards.micropython(), "-c", SERVER.format(paths)], capture_output=True, text=True, timeout=20
    )
    assert " ready on 127.0.0.1:" in result.stdout, result


@pytest.fixture
def web() -> Iterator[str]:
    """URL of a web server with the repository."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(ROOT))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_mip_of_micropython_installs_a_server_that_runs(web: str, tmp_path: Path):
    def run(code: str) -> str:
        command = [boards.micropython(), "-c", code]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=20)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    run(f"import mip; mip.install('{web}/package.json', target='{tmp_path}/lib')")
    assert installed(tmp_path / "lib") == INSTALLED
    paths = [str(tmp_path / "lib"), str(ROOT / "board/unix/shims")]
    assert " ready on 127.0.0.1:" in run(SERVER.format(paths))
    # The page gets its script as it was installed.
    code = f"import sys; sys.path[:0] = {paths!r}; from tftpd import page\nclass Connection:\n"
    code += " def head(self, *fields): return fields[-1].encode()\n def sending(self, data): yield data\n"
    answer = ast.literal_eval(run(code + "print(b''.join(page._asset(Connection(), b'GET', 'page.js')))"))
    assert answer.endswith(b"immutable\r\n" + ASSETS["tftpd/page.js"])


def test_the_manifest_freezes_every_module_of_the_firmware_and_no_other(tmp_path: Path):
    frozen: dict[str, bytes] = {}

    def add(path: Path) -> None:
        frozen[path.relative_to(FIRMWARE).as_posix()] = path.read_bytes()

    # As in MicroPython's tools/manifestfile.py: paths are relative to the manifest, a package is all of its .py files.
    names = {
        "metadata": lambda *, description, version, license: None,
        "module": lambda name: add(FIRMWARE / name),
        "package": lambda name: [add(path) for path in (FIRMWARE / name).rglob("*.py")],
    }
    exec((FIRMWARE / "manifest.py").read_text(), names)
    assert frozen == MODULES
    compiled = filesystem.compile_firmware(tmp_path)
    assets = {f"{name}.gz" for name in ASSETS}
    assert {name.replace(".mpy", ".py") for name in compiled} == set(frozen) | assets


def test_what_the_page_needs_is_minified_and_compressed(tmp_path: Path):
    compiled = filesystem.compile_firmware(tmp_path)
    for name, source in ASSETS.items():
        packed = compiled[f"{name}.gz"]
        small = gzip.decompress(packed)
        assert len(packed) < len(small) < len(source)
        assert b"innerHTML" not in small  # the comment has gone, and nothing else names it
        assert filesystem.compile_firmware(tmp_path)[f"{name}.gz"] == packed


def test_the_version_and_the_licence_come_first_in_the_manifest():
    # MicroPython's rule for what is published.
    calls: list[str] = []

    class Names(dict):
        def __missing__(self, name: str):
            return lambda *arguments, **options: calls.append(name)

    exec((FIRMWARE / "manifest.py").read_text(), Names(__builtins__={}))
    assert calls[0] == "metadata"


def test_no_call_of_next_has_a_default():
    # An ESP32's next() takes none (seen on v1.24.0): no folder was ever listed there.
    calls = [
        node
        for path in [ROOT / "boot.py", ROOT / "main.py", *FIRMWARE.rglob("*.py")]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "next"
    ]
    assert calls and all(len(call.args) == 1 for call in calls)
