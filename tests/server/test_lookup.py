"""names.py over a tree in memory that counts flash accesses: a request for a missing name causes none."""

import sys
import types
from errno import EIO, EISDIR, ENOENT
from typing import NoReturn

import pytest
import settings
from hypothesis import given
from hypothesis import strategies as st
from tftpd.files import Files
from tftpd.packet import NOT_FOUND, Refused
from tftpd.start import index

names = sys.modules["tftpd.names"]
FOLDER, FILE = 0x4000, 0x8000


class Handle:
    def __init__(self, path: str):
        self.path = path

    def close(self) -> None:
        pass


class Flash:
    """A tree of files below /files; listing one entry takes 2 ms."""

    def __init__(self, *paths: str):
        self.folders: dict[str, dict[str, int]] = {"/files": {}}
        for path in paths:
            self.put(path)
        self.now = 0
        self.opened = self.listed = 0
        self.broken = False

    def put(self, path: str) -> None:
        folder = "/files"
        *parts, last = path.split("/")
        for part in parts:
            self.folders[folder].setdefault(part, FOLDER)
            folder += "/" + part
            self.folders.setdefault(folder, {})
        self.folders[folder].setdefault(last, FILE)

    def stand_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Replace the flash and the clock of names.py."""
        monkeypatch.setattr(names, "os", types.SimpleNamespace(ilistdir=self.ilistdir, stat=self.stat))
        monkeypatch.setattr(names, "open", self.open, raising=False)
        monkeypatch.setattr(names, "ticks_ms", lambda: self.now)

    def open(self, path: str, mode: str) -> Handle:
        assert mode == "rb"
        self.opened += 1
        folder, _, name = path.rpartition("/")
        if path in self.folders:
            raise OSError(EISDIR, "")
        if self.folders.get(folder, {}).get(name) != FILE:
            raise OSError(ENOENT, "")
        return Handle(path)

    def stat(self, path: str) -> None:
        folder, _, name = path.rpartition("/")
        self.opened += 1
        if path not in self.folders and name not in self.folders.get(folder, {}):
            raise OSError(ENOENT, "")

    def ilistdir(self, path: str):
        if path not in self.folders:
            raise OSError(ENOENT, "")
        return self._entries(path)

    def _entries(self, path: str):
        for name, kind in list(self.folders[path].items()):
            if self.broken:
                raise OSError(EIO, "")
            self.now += 2
            self.listed += 1
            yield (name, kind, 0)

    def reset(self) -> None:
        self.opened = self.listed = 0


@pytest.fixture
def lookup(monkeypatch: pytest.MonkeyPatch):
    """lookup(*paths, most) -> (flash, Names)."""
    monkeypatch.setattr("sys.print_exception", lambda trouble: None, raising=False)

    def make(*paths: str, most: int = 10_000):
        flash = Flash(*paths)
        flash.stand_in(monkeypatch)
        tree = names.Names(["/files"], most)
        index(tree)
        return flash, tree

    return make


def finish(tree) -> None:
    """List everything that is not listed yet."""
    while tree.jobs:
        tree.work(10)


def find(tree, path: str):
    """The path of `name`, None if there is no such file; lists folders until that is certain."""
    found: dict = {}
    for _ in range(10_000):
        try:
            where, file = tree.find([part for part in path.split("/") if part], found)
        except names.Later:
            while not tree.work(10):
                pass
            continue
        except Refused as refusal:
            assert refusal.code == NOT_FOUND
            return None
        assert file is None or file.path == where
        return where.removeprefix("/files/")
    raise AssertionError("it is never known")


MANY = [f"file-{number:04}.bin" for number in range(1500)]


def test_a_missing_name_causes_no_flash_access(lookup):
    flash, tree = lookup(*MANY, "pxelinux.cfg/default")
    finish(tree)
    flash.reset()
    for number in range(100):
        assert find(tree, f"pxelinux.cfg/01-{number}") is None
        assert find(tree, f"missing-{number}") is None
    assert (flash.opened, flash.listed) == (0, 0)


def serve(tree, name: bytes) -> str | None:
    """The path of the file that a request for `name` gets, None without one; `tree` is a Names."""
    store = Files(settings.defaults(), 0)
    store.names = tree
    found: dict = {}
    while True:
        try:
            return store.find(store.place(name, "10.0.0.1", found), found)[0].removeprefix("/files/")
        except Refused as refusal:
            assert refusal.code == NOT_FOUND
            return None
        except names.Later:
            tree.work(10)


@pytest.mark.parametrize("most", [10_000, 5])
def test_without_a_compressed_file_no_name_is_looked_up_twice(lookup, monkeypatch, most: int):
    flash, tree = lookup(*MANY[:10], "folder/.gz", "gz", "archive.tgz", most=most)
    finish(tree)
    monkeypatch.setitem(sys.modules, "tftpd.deflate", None)  # nor is the module loaded
    monkeypatch.delattr(sys.modules["tftpd"], "deflate", raising=False)
    flash.reset()
    assert serve(tree, b"file-0001.bin") == "file-0001.bin"
    assert flash.opened == 1
    flash.reset()
    assert serve(tree, b"missing") is None
    assert flash.opened <= (0 if most > 5 else 2)


@pytest.mark.parametrize("most", [10_000, 5])
def test_a_compressed_file_is_looked_up_after_the_plain_one(lookup, most: int):
    flash, tree = lookup(*MANY[:10], "folder/x.bin.gz", "plain", "plain.gz", most=most)
    finish(tree)
    assert serve(tree, b"folder/x.bin") == "folder/x.bin.gz"
    assert serve(tree, b"Folder/X.BIN") == "folder/x.bin.gz"
    assert serve(tree, b"missing") is serve(tree, b"x.bin") is None
    flash.reset()
    assert serve(tree, b"plain") == "plain"
    assert flash.opened == 1
    flash.put("New.GZ")
    tree.add("/files/New.GZ")
    assert serve(tree, b"new") == "New.GZ"


def test_compressed_files_are_looked_for_if_listing_the_names_has_failed(lookup):
    flash, tree = lookup("one.gz")
    flash.broken = True
    assert tree.work(10), "what waits is answered"
    flash.broken = False
    assert serve(tree, b"one") == "one.gz"


def test_an_existing_name_takes_one_open(lookup):
    flash, tree = lookup(*MANY)
    finish(tree)
    flash.reset()
    assert find(tree, "file-0777.bin") == "file-0777.bin"
    assert (flash.opened, flash.listed) == (1, 0)


def test_a_file_in_small_letters_is_found_in_any_case_without_a_listing(lookup):
    flash, tree = lookup(*MANY, "boot/bcd")
    finish(tree)
    flash.reset()
    assert find(tree, "Boot/BCD") == "boot/bcd"
    assert flash.listed == 0


def test_a_hash_takes_4_bytes(lookup):
    _, tree = lookup(*MANY)
    finish(tree)
    assert len(tree.hashes) == 1500 and tree.hashes.itemsize == 4
    assert list(tree.hashes) == sorted(tree.hashes)
    assert all(0 <= number < 1 << 30 for number in tree.hashes), "a small int on a board of 32 bits"


def test_folders_are_listed_in_slices(lookup):
    flash, tree = lookup(*MANY, "ODD.bin")
    while tree.jobs:
        before = flash.now
        tree.work(10)
        assert flash.now - before <= 12
    found: dict = {}
    slices = 0
    while True:
        try:
            assert tree.find(["odd.BIN"], found)[0] == "/files/ODD.bin"
            break
        except names.Later:
            before = flash.now
            tree.work(10)
            assert flash.now - before <= 12
            slices += 1
    assert slices > 200


def test_a_name_is_not_refused_before_the_listing_is_complete(lookup):
    _, tree = lookup(*MANY)
    with pytest.raises(names.Later):
        tree.find(["missing"], {})
    assert len(tree.jobs) == 1, "the names are collected already: that tells it too"
    assert find(tree, "FILE-1499.BIN") == "file-1499.bin"
    assert find(tree, "missing") is None


def test_an_uploaded_file_is_found_at_once_and_in_any_case(lookup):
    flash, tree = lookup(*MANY)
    finish(tree)
    assert find(tree, "New.bin") is None
    flash.put("New.bin")
    tree.add("/files/New.bin")
    assert find(tree, "New.bin") == find(tree, "NEW.BIN") == "New.bin"


def test_a_file_uploaded_during_the_listing_is_found(lookup):
    flash, tree = lookup(*MANY)
    tree.work(10)
    flash.put("New.bin")
    tree.add("/files/New.bin")
    finish(tree)
    assert find(tree, "nEW.bin") == "New.bin"


def test_files_beyond_the_limit_of_kept_names_are_served(lookup):
    _, tree = lookup(*MANY, most=1000)
    finish(tree)
    assert len(tree.hashes) == 0
    assert find(tree, "file-1400.bin") == "file-1400.bin"
    assert find(tree, "FILE-1400.bin") == "file-1400.bin"
    assert find(tree, "missing") is None
    assert not tree.jobs


def test_an_upload_that_exceeds_the_limit_of_kept_names_is_served(lookup):
    flash, tree = lookup("one", "two", most=2)
    finish(tree)
    flash.put("Three")
    tree.add("/files/Three")
    for name in ("one", "TWO", "three"):
        assert find(tree, name)
    assert find(tree, "four") is None


def test_files_are_served_when_there_is_no_memory_for_another_hash(lookup, monkeypatch):
    class Full(names.array):
        def append(self, number: int) -> NoReturn:
            raise MemoryError

    _, tree = lookup("one", "two")
    tree.hashes = Full("i")
    finish(tree)
    assert find(tree, "ONE") == "one" and find(tree, "missing") is None


def test_a_flash_that_can_not_be_listed_ends_the_search(lookup):
    flash, tree = lookup("One", "two")
    finish(tree)
    flash.broken = True
    found: dict = {}
    with pytest.raises(names.Later):
        tree.find(["ONE"], found)
    assert tree.work(10), "what waits is answered"
    assert not tree.jobs
    with pytest.raises(Refused, match="try again") as refused:  # "not found" is final for a boot loader
        tree.find(["ONE"], found)
    assert refused.value.code == 0


def test_a_flash_that_can_not_be_listed_at_the_start_is_accessed_for_each_name(lookup):
    flash, tree = lookup("One", "two")
    flash.broken = True
    assert tree.work(10), "what waits is answered"
    flash.broken = False
    assert not tree.jobs
    assert find(tree, "ONE") == "One" and find(tree, "missing") is None


@pytest.mark.parametrize("where", ["in the job", "beside it"])
def test_ctrl_c_during_a_search_leaves_no_request_unanswered(lookup, monkeypatch, where: str):
    _, tree = lookup("One", "two")
    clock = names.ticks_ms

    def interrupted(*_) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        if where == "in the job":
            context.setattr(tree, "add", interrupted)
        else:
            calls = iter([clock, clock, interrupted])
            context.setattr(names, "ticks_ms", lambda: next(calls)())
        tree.work(10)
    assert find(tree, "ONE") == "One" and find(tree, "missing") is None


def test_hidden_files_and_the_contents_of_hidden_folders_are_not_kept(lookup):
    _, tree = lookup(".secret/file", "a/.hidden")
    finish(tree)
    assert len(tree.hashes) == 1


NAME = st.text("aAbB", min_size=1, max_size=3)
PATHS = st.lists(st.lists(NAME, min_size=1, max_size=3).map("/".join), max_size=12)


@given(paths=PATHS, asked=st.lists(NAME, min_size=1, max_size=3).map("/".join), most=st.sampled_from([3, 1000]))
def test_any_tree_gives_the_same_result_as_a_plain_search(paths, asked, most):
    with pytest.MonkeyPatch.context() as monkeypatch:
        flash = Flash()
        for path in paths:
            # A name can't be a file and a folder.
            above = ["/".join(path.split("/")[:end]) for end in range(1, path.count("/") + 1)]
            kinds = {
                f"{folder}/{name}"[7:]: kind for folder, held in flash.folders.items() for name, kind in held.items()
            }
            if path not in kinds and all(kinds.get(one, FOLDER) == FOLDER for one in above):
                flash.put(path)
        flash.stand_in(monkeypatch)
        tree = names.Names(["/files"], most)
        index(tree)
        there = {f"{folder}/{name}"[7:] for folder, held in flash.folders.items() for name in held}
        right = {path for path in there if path.lower() == asked.lower()}
        for _ in range(2):
            got = find(tree, asked)
            assert got == asked if asked in there else got in right if right else got is None
            finish(tree)


def test_requests_that_wait_for_the_listing_are_limited(lookup):
    _, tree = lookup(*MANY, most=10)
    finish(tree)
    asked: list[dict] = [{} for _ in range(50)]
    for _ in range(3):
        for number, found in enumerate(asked):
            with pytest.raises(names.Later):
                tree.find([f"missing-{number}"], found)
    assert len(tree.jobs) <= 8
    for number in range(50):
        assert find(tree, f"missing-{number}") is None
