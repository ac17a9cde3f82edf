"""What both directions share: how long to wait, when to retransmit, when to give up.

RFC 6298 (round-trip time, backoff, Karn's rule) and RFC 1123 4.2.3.1 (Sorcerer's Apprentice). The
two directions are rrq.py and wrq.py: state machines with no socket, and no clock but the caller's.
All times are of `time.ticks_ms()`. A block number counts from 1 without wrapping; only on the wire
has it 16 bits.
"""

from errno import EAGAIN, ECONNREFUSED, ENOBUFS, ENOMEM
from time import ticks_add, ticks_diff

from micropython import const

from .packet import UNDEFINED, Refused

# The least margin over the smoothed round-trip time: a busy client, or the air, may be that late
# without a loss. It is the minimum of the variation, as in Linux, not of the whole wait: on a
# steady 100 ms link the variation falls to 0. A client that was later gets more (_needless).
_MARGIN_MIN_MS = const(20)
_MARGIN_MAX_MS = const(1000)
_RTO_FIRST_MS = const(250)  # the wait before anything has been measured
BLOCKED_MS = const(2)  # how long the network driver gets to drain before a send is tried again
_BUSY = (EAGAIN, ENOBUFS, ENOMEM)  # a send that may be tried again shortly
_FRAME_BYTES = const(1468)  # the largest blksize that leaves in one frame
_STUCK_MS = const(3000)  # a larger block that the network refused for so long will never leave
_UNPROVEN_DATAGRAMS = const(3)  # for each request, until its client has proved its address

DONE = "done"
# iPXE and UEFI ask for tsize alone and then send an ERROR: nothing is wrong.
PROBED = "probed, no data wanted"


class Transfer:
    """One transfer: what ReadTransfer (rrq.py) and WriteTransfer (wrq.py) have in common.

    Its caller (server.py, ports.py) calls, until there is an `outcome`:

    attach(send, hear)  before anything else, and whenever the socket changes
    pump(word)          with each datagram of the client (bytes-like). With None to begin, and
                        after each call of attach(), expired() and repeat_request(). Sends what
                        may be sent. Returns True if the caller must act: there is an `outcome`,
                        or `due` is BLOCKED_MS from now; otherwise `due` is _MARGIN_MIN_MS away or
                        more. Raises OSError or Refused if the file can't be read or written
    expired(now)        when `due` has come: prepares a retransmission, or gives up
    repeat_request(now) when the client sends its request again

    due        when expired() is to be called, in ticks_ms
    progress   when the client last brought the transfer on, in ticks_ms
    resent     number of packets sent again
    repeats    how often the request came again before the client had answered
    proven     the client has answered, so its address is no forged one
    blocked    ticks_ms since when the network takes no packet; a false value while it does
    outcome    None while the transfer is under way, then how it ended: DONE, PROBED, or other
               words for the journal
    peer_error code and text of the ERROR that the client ended with (bytes, as much of it as was
               received), None without one
    path       where an upload is to go (str), None for a read

    Each direction adds

    delivered()    bytes of data that have arrived for certain, headers excluded. No property: a
                   class with one takes a Pico W 28 us for each attribute that is set, not 2.
    whole()        True if all data has been sent, or stored: only the last ACK is missing
    dallying(now)  True if it only waits in case that ACK was lost
    receive(datagram, size, now)  what a datagram of `size` bytes changes; pump() calls it
    _repeat()      makes pump() send again what was sent last
    """

    # On the class as long as a transfer does not need its own.
    path: "str | None" = None
    peer_error: "bytes | None" = None
    repeats = 0
    # Retransmissions by the timer: `progress` and `resent` when the first was made, how often the
    # client has answered since, and how long (ms) its first answer took.
    _since: "int | None" = None
    _before = _answers = _late = 0

    def __init__(self, agreed, timeout, retries, clock):
        """A transfer that is about to send its first packet.

        agreed     options.Agreed
        timeout    seconds, the longest wait before a retransmission unless negotiated
        retries    the client is given up after so many longest waits without progress
        clock      ticks_ms
        """
        self.outcome = None
        self.proven = self._doubt = self.blocked = False
        self.clock = clock
        self.oack = agreed.oack
        self.windowsize = agreed.windowsize
        self.blksize = agreed.blksize
        self.resent = 0
        self._allowance = _UNPROVEN_DATAGRAMS
        self._rto_max = (agreed.timeout or timeout) * 1000
        self._patience = max(agreed.timeout or 0, timeout) * retries * 1000
        self._margin = _MARGIN_MIN_MS
        self._best = 0  # the shortest round-trip time measured (ms)
        # Smoothed round-trip time in 1/8 ms, its variation in 1/4 ms, as in Jacobson's paper.
        self._srtt8 = -1
        self._rttvar4 = 0
        self._rto = self._estimate()
        self.progress = now = clock()
        self.due = ticks_add(now, self._rto)

    def attach(self, send, hear):
        """Set the socket.

        send  takes a packet (bytes-like); returns None, or raises OSError with a number of _BUSY,
              if the network takes none just now. ECONNREFUSED (ICMP "port unreachable") ends the
              transfer. With any other OSError the packet counts as lost on the air.
        hear  readinto of a connected socket, which hears this client alone; None without one
        """
        self.send = send
        self.hear = hear

    def failed(self, trouble):
        """`send` or `hear` raised `trouble` (OSError). Returns True if the packet may be sent
        again shortly, or the transfer has ended."""
        if trouble.errno == ECONNREFUSED:
            gone = "nobody is on the client's port any more"
            self.outcome = DONE if self.whole() else gone  # pyright: ignore[reportAttributeAccessIssue]
        return self.outcome is not None or trouble.errno in _BUSY

    # -- the round-trip time

    def _measured(self, ms):
        """A round trip took `ms`. RFC 6298 section 2: srtt += (ms - srtt) / 8,
        rttvar += (|ms - srtt| - rttvar) / 4.

        A value far above all others is the client's own timer: its ACK was lost. It counts as
        double the estimate at most."""
        srtt = self._srtt8
        if srtt < 0:
            self._best = ms
            self._srtt8 = ms << 3
            self._rttvar4 = ms << 1
        else:
            self._best = min(self._best, ms)
            off = min(ms, (srtt >> 2) + _MARGIN_MIN_MS) - (srtt >> 3)
            self._srtt8 = srtt + off
            self._rttvar4 += (off if off > 0 else -off) - (self._rttvar4 >> 2)
        self._doubt = False
        self._rto = self._estimate()

    def _estimate(self):
        """The wait before a retransmission by what has been measured (ms)."""
        rto = _RTO_FIRST_MS
        if self._srtt8 >= 0:
            rto = (self._srtt8 >> 3) + max(self._rttvar4, self._margin)
        return min(rto, self._rto_max)

    def _answered(self, now):
        """The client acknowledged a packet that was sent more than once: this measures nothing
        (Karn).

        RFC 6298 keeps the doubled wait until something is measured, which a far client needs once.
        Under heavy loss most windows have such a packet, and the wait would stay at its limit: so
        it is halved from the second time on.
        """
        after = self._rto - ticks_diff(self.due, now)  # since the last packet
        if self._doubt:
            self._rto = max(self._rto >> 1, self._estimate())
        self._doubt = True
        if self._since == self.progress:  # the timer sent it again
            self._answers = 1
            self._late = ticks_diff(now, self.progress)
            if 2 * (after + 1) < self._best:  # too soon for an answer to the second copy
                self._needless()
            else:  # the retransmission was needed, as far as can be seen yet
                self._margin = max(self._margin >> 1, _MARGIN_MIN_MS)

    def _needless(self):
        """A retransmission was not needed: the client had the packet, and was late. Some boot
        loaders take the second copy for the next block, so this client gets a larger margin."""
        self._answers = 0
        self._margin = min(max(2 * self._margin, 4 * self._late), _MARGIN_MAX_MS)
        self._rto = self._estimate()

    # -- retransmission

    def repeat_request(self, now):
        """The client sent its request again: pump() repeats the last reply.

        Returns False if the client begins anew instead: it has, or has sent, the whole file, or it
        made progress and then was silent for a second. It was restarted then; PXE ROMs always use
        the same port.
        """
        if self.whole():  # pyright: ignore[reportAttributeAccessIssue]
            return False
        if not self.proven:
            self.repeats += 1
            self.progress = now
            self._rto = self._estimate()
            self._allowance = _UNPROVEN_DATAGRAMS
        elif not 0 <= ticks_diff(now, self.progress) <= 1000:
            return False
        self._repeat()  # pyright: ignore[reportAttributeAccessIssue]
        return True

    def expired(self, now):
        """`due` has come: prepare a retransmission, or give up. Raises Refused if no block can
        ever be sent."""
        silence = ticks_diff(self.clock(), self.progress)  # `now` may be older than `progress`
        if silence < 0:  # ticks_ms has wrapped: it is days
            silence = self._patience
        if self.blocked:
            longest = _STUCK_MS if self.blksize > _FRAME_BYTES else self._patience
            if ticks_diff(now, self.blocked) >= longest:
                raise Refused(UNDEFINED, "can't send blocks of %d bytes" % self.blksize)
        elif silence >= self._patience:
            # With only the last ACK missing it was lost: the client is content.
            content = self.whole()  # pyright: ignore[reportAttributeAccessIssue]
            self.outcome = DONE if content else "the client does not answer"
        elif self.proven or self._allowance > 0:
            if self._since != self.progress:
                self._since = self.progress
                self._before = self.resent
                self._answers = 0
            self._rto = min(self._rto * 2, self._rto_max)
            self.due = ticks_add(now, self._rto)
            self._repeat()  # pyright: ignore[reportAttributeAccessIssue]
        else:  # unproven, and its datagrams are used up: wait in silence
            self.due = ticks_add(now, self._patience - silence)
