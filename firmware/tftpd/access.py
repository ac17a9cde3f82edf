"""Who may do what: ranges of IPv4 addresses (CIDR, RFC 4632)."""


def _number(address):
    number = 0
    for part in address.split("."):
        number = number << 8 | int(part)
    return number


class Ranges:
    """A list of ranges such as "192.168.1.0/24"; a plain address is a range of one."""

    def __init__(self, ranges):
        """`ranges`: list of str, checked by settings.py."""
        self._ranges = []
        for one in ranges:
            address, _, bits = one.partition("/")
            drop = 32 - int(bits or 32)
            self._ranges.append((_number(address) >> drop, drop))

    def __contains__(self, host):
        """Whether `host` ("192.168.1.7") lies in one of them."""
        number = _number(host)
        return any(number >> drop == network for network, drop in self._ranges)
