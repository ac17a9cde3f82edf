"""Decides who may do what: ranges of IPv4 addresses (CIDR, RFC 4632), and which transfer ends
early to make room for another."""

from time import ticks_diff

from micropython import const

from .packet import UNDEFINED, Refused

_PROVE_MS = const(250)  # time to answer, before another client may take the place
_SILENT_MS = const(1000)  # silence after which a host's new request replaces its old one


def _number(address):
    number = 0
    for part in address.split("."):
        number = number << 8 | int(part)
    return number


class Ranges:
    """A list of ranges such as "192.168.1.0/24". A plain address is a range of one."""

    def __init__(self, ranges):
        """`ranges`: list of str, checked by settings.py."""
        self._ranges = []
        for one in ranges:
            address, _, bits = one.partition("/")
            drop = 32 - int(bits or 32)
            self._ranges.append((_number(address) >> drop, drop))

    def __contains__(self, host):
        """Whether `host` ("192.168.1.7") is in one of the ranges."""
        number = _number(host)
        return any(number >> drop == network for network, drop in self._ranges)


def allowed(options, off, host):
    """Return the `options` of a request (pairs of bytes) without those that `off` (the setting
    options_off) turns off for `host`."""
    for one, names in off.items():
        if host in Ranges([one]):
            refused = [name.encode() for name in names] if names != "all" else ()
            options = [pair for pair in options if refused and pair[0].lower() not in refused]
    return options


def may_end(session, host, now):
    """Whether `session` (ports.Session) may be ended for a request from `host`.

    It may if its client has not answered, as its address may be false; or if it belongs to the
    same host and is silent, as that host may have restarted.
    """
    transfer = session.transfer
    if not transfer.proven:  # a negative difference means days: ticks_ms wraps
        return not 0 <= ticks_diff(now, session.started) < _PROVE_MS
    return session.host == host and not 0 <= ticks_diff(now, transfer.progress) < _SILENT_MS


def gives_way(sessions, settings, host, now):
    """Return which of `sessions` (ports.Session) must end to make one more, for `host`, fit the
    limits: transfers_per_client and transfers of the `settings`.

    None if all can stay. A session can end if it dallies (only waits for the last ACK) or if
    may_end() says so. Raises Refused if there is no such session.
    """
    own = [session for session in sessions if session.host == host]
    if len(own) >= settings["transfers_per_client"]:
        sessions = own
    elif len(sessions) < settings["transfers"]:
        return None
    for session in sessions:
        if session.transfer.dallying(now):
            return session
    # The oldest ends first; an unproven one at once if the new client has fewer sessions.
    hosts = [session.host for session in sessions]
    for session in sessions:
        fewer = hosts.count(session.host) > hosts.count(host) + 1
        if may_end(session, host, now) or (fewer and not session.transfer.proven):
            return session
    raise Refused(UNDEFINED, "busy: %d transfers, try again" % len(sessions))
