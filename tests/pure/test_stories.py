"""stories.py; runs on CPython under pytest, and unchanged inside MicroPython."""

from tftpd.stories import stories

MAC = "52:54:00:12:34:56"
UEFI = [
    f"14.160 dhcp: {MAC} boots as efi64: ipxe.efi",
    f"19.950 dhcp: {MAC} is 192.168.1.111",
    '19.993 192.168.1.111:1326 RRQ "/ipxe.efi" octet tsize=850528 blksize=1468: probed, no data wanted, ERROR 8, '
    "0 bytes in 0.000 s, 0 KB/s, 0 resent",
    '20.670 192.168.1.111:1327 RRQ "/ipxe.efi" octet blksize=1468: done, 850528 bytes in 0.677 s, 1256 KB/s, 4 resent',
    f"27.790 dhcp: {MAC} boots as ipxe: boot.ipxe",
    f"27.791 dhcp: {MAC} is 192.168.1.111",
    '51.548 192.168.1.111:14088 RRQ "/boot.ipxe" octet tsize=36: done, 36 bytes in 0.013 s, 2 KB/s, 0 resent',
    '51.600 192.168.1.111:14089 GET "/vmlinuz": done, 5000 bytes in 0.013 s, 2 KB/s',
]
STORY = {
    "client": "192.168.1.111",
    "mac": MAC,
    "until": 51600,
    "steps": [
        [14160, "", "efi64: ipxe.efi"],
        [19993, "/ipxe.efi", "probed, no data wanted, ERROR 8, 0 bytes"],
        [20670, "/ipxe.efi", "done, 850528 bytes"],
        [27790, "", "ipxe: boot.ipxe"],
        [51548, "/boot.ipxe", "done, 36 bytes"],
        [51600, "/vmlinuz", "done, 5000 bytes"],
    ],
}


def later(lines, seconds):
    """The same lines at a later time."""
    moved = []
    for line in lines:
        second, _, rest = line.partition(".")
        moved.append(f"{int(second) + seconds}.{rest}")
    return moved


def test_a_boot_is_one_story():
    assert stories(UEFI) == [STORY]


def test_two_machines_have_two_stories_though_their_lines_are_mixed():
    other = [line.replace("34:56", "34:57").replace("1.111", "1.112") for line in UEFI]
    mixed = []
    for number in range(len(UEFI)):
        mixed += [UEFI[number], other[number]]
    first, second = stories(mixed)
    assert first == STORY
    assert second["client"] == "192.168.1.112" and second["steps"] == STORY["steps"]


def test_a_machine_that_boots_again_begins_another_story():
    for seconds in (40, 1000):  # it is told the same once more; or it was silent for long
        found = stories(UEFI + later(UEFI, seconds))
        assert [one["client"] for one in found] == ["192.168.1.111"] * 2
        assert found[0] == STORY and len(found[1]["steps"]) == 6


def test_offers_that_are_repeated_are_of_one_boot():
    again = [line.replace("14.160", "18.160") for line in UEFI[:1]]
    (story,) = stories(UEFI[:1] + again + UEFI[1:])
    assert [step[1] for step in story["steps"]][:3] == ["", "", "/ipxe.efi"]


def test_without_dhcp_a_story_begins_with_a_read_over_tftp():
    lines = [
        '2.387 10.0.0.9:42270 RRQ "pxelinux.cfg/01-52" octet tsize=0: refused, file not found',
        '2.400 10.0.0.9:42271 RRQ "pxelinux.cfg/default" -> "/pxe/default" octet tsize=8: done, 8 bytes in 0.001 s, '
        "8 KB/s, 0 resent",
        '2.500 10.0.0.9:42272 RRQ "private/key" octet: refused, denied by rule 3',
        '2.600 10.0.0.9:42273 RRQ "/big" octet: nobody answers, 512 bytes in 9.000 s, 0 KB/s, 7 resent',
    ]
    assert stories(lines) == [
        {
            "client": "10.0.0.9",
            "mac": None,
            "until": 2600,
            "steps": [
                [2387, "pxelinux.cfg/01-52", "refused, file not found"],
                [2400, "pxelinux.cfg/default", "done, 8 bytes", "/pxe/default"],
                [2500, "private/key", "refused, denied by rule 3"],
                [2600, "/big", "nobody answers, 512 bytes"],
            ],
        }
    ]
    assert len(stories(lines + later(lines, 119))) == 1
    assert len(stories(lines + later(lines, 130))) == 2


def test_browsers_uploads_and_other_lines_have_no_story():
    assert (
        stories(
            [
                "0.219 ready on 0.0.0.0:69, files in /files",
                "0.300 dhcp: port 67",
                "0.400 dhcp: no socket is left for port 4011; tried again each second",
                "0.450 dhcp: 192.0.2.3 answers PXE, too",
                "0.500 10.0.0.9: 7 more refused or unanswered",
                '1.000 10.0.0.9:1 GET "/a": done, 5 bytes in 0.001 s, 5 KB/s',
                '1.100 10.0.0.9:2 WRQ "/a" octet: done, 5 bytes in 0.001 s, 5 KB/s, 0 resent',
                '1.200 10.0.0.9:3 RRQ "/tftpd/status.json" octet: done, 5 bytes in 0.001 s, 5 KB/s, 0 resent',
                "1.300 10.0.0.9:4 b'\\x00\\x09': refused, not a request (RRQ, WRQ)",
                "1.400 RRQ",
                "1.500 ",
            ]
        )
        == []
    )


def test_names_that_look_like_the_journal_forge_nothing():
    name = '\\\\\\": done, 9 bytes -> \\"x'  # as quoted() writes it
    (story,) = stories([f'1.000 10.0.0.9:3 RRQ "{name}" octet: refused, file not found'])
    assert story["steps"] == [[1000, name, "refused, file not found"]]
    assert stories(['1.000 10.0.0.9:3 RRQ "cut'])[0]["steps"] == [[1000, "cut", ""]]
