"""A transfer as a state machine: "this came" and "the clock says T" in, "send this" out.

RFC 1350 (lock-step), 2347 (the OACK counts as block 0), 7440 (windows), RFC 1123 4.2.3.1
(Sorcerer's Apprentice), RFC 6298 (adaptive retransmission, Karn's rule). No sockets, and no clock
but the caller's: times are of `time.ticks_ms()`.

The caller's part, until `outcome` is set: pump() to begin and with each word of the client,
receive() for what pump() leaves, expired() when `due` has come, and pump() again after either. A
block number is counted from 1 without wrapping; only on the wire has it 16 bits.
"""

# The caller sets `send` and `hear`; a Transfer by itself does not go anywhere.
# pyright: reportOptionalCall=false, reportAttributeAccessIssue=false

from errno import EAGAIN, ECONNREFUSED, ENOBUFS, ENOMEM
from struct import pack_into
from time import ticks_add, ticks_diff

from micropython import const

from .packet import ACK, ERROR, UNDEFINED, Refused

# The least margin over the round-trip time before a repeat: what a busy client, or the air, may be
# late without a loss. On the variation, as Linux has it, and not on the sum: a steady 100 ms link
# shows no variation at all. A client that was later than that gets more (Transfer._needless).
_MARGIN_MIN_MS = const(20)
_MARGIN_MAX_MS = const(1000)
_RTO_FIRST_MS = const(250)  # the wait before anything has been measured
BLOCKED_MS = const(2)  # how long the network driver gets to drain before a send is tried again
_MEASURE_BLOCKS = const(8)
# How often the answer of a quick client is looked for right after a send: 24 us on the everyday
# board, 150 on a Pico W. With 16 an ESP32-C3 looked too short at times: 732 us a block, not 544.
_LOOKS = const(24)
_AHEAD_BLOCKS = const(16)  # at most, for each costs its transfer a memoryview
_BUSY = (EAGAIN, ENOBUFS, ENOMEM)  # of a send that may be tried again shortly
_FRAME_BYTES = const(1468)  # the largest blksize that leaves in one frame
_STUCK_MS = const(3000)  # the network takes no larger one for so long: it never will
_NO_BLOCK = const(0x3FFFFFFF)  # a number that no block has: above all others
_DATA = const(3 << 16)  # the header of a DATA packet, with block 0
_ACK = const(4 << 16)
_UNPROVEN_DATAGRAMS = const(3)  # for each request, until its client has shown that it is there

DONE = "done"
# iPXE and UEFI ask for tsize alone and then send an ERROR: nothing is wrong
PROBED = "probed, no data wanted"


class ReadAhead:
    """The buffer that all transfers send from: it holds the next blocks of one of them.

    One for all is less heap than one for each, and blocks that are read together leave together,
    which wakes a client once and not for each (docs/performance.md). They lie one behind the other
    as in the file, 4 bytes from the start. The header of a block is written over the end of the
    block before it, which has been sent by then.
    """

    def __init__(self, size):
        """`size`: bytes of data that fit, at least the largest blksize."""
        self.view = memoryview(bytearray(4 + size))
        self.owner = None  # the transfer whose blocks these are
        self.inbox = bytearray(4)  # an ACK, or the head of an ERROR


class Transfer:
    """What reads and writes (upload.py) have in common: how long to wait, and for how often.

    due        when `expired` wants to be called, in ticks_ms
    progress   when the client last brought the transfer on, in ticks_ms
    resent     number of packets sent again
    proven     the client has shown that it is there: its address is not a false one
    outcome    None while it goes on, then how it ended: DONE, PROBED, or other words for the
               journal
    peer_error what stands behind the opcode of the ERROR that the client ended with (bytes: code
               and text, or as much as could be heard), None without one

    path       where an upload is to go (str), set by the caller; None for a read
    repeats    how often the request was repeated before the client had answered

    The caller sets before pump():

    send       takes a packet (bytes-like) and puts it on the wire; returns None, or raises OSError
               with a number of _BUSY, if the network takes none just now. Any other OSError is a
               link that is down: the packet is lost as on the air. But ECONNREFUSED, as of an ICMP
               "port unreachable", ends the transfer: nobody is there any more.

    Both have, besides pump() and receive():

    delivered()    bytes of data that have arrived for certain, headers excluded. No property: a
                   class with one takes a Pico W 28 us for each attribute that is set, not 2.
    whole()        True if all has been sent, or is in its place, and only the last ACK is missing
    dallying(now)  True if that ACK is most likely lost, or has been sent
    _repeat()      makes pump() send again what was sent last
    """

    # Here and not in each transfer, which would not need them:
    path: "str | None" = None
    repeats = 0

    def __init__(self, agreed, timeout, retries, clock):
        """A transfer that is about to send its first packet.

        agreed     options.Agreed
        timeout    seconds, the longest wait before a repeat where the client negotiated none
        retries    after this many longest waits without progress the client is given up
        clock      ticks_ms
        """
        self.send = self.outcome = self.peer_error = None
        self.proven = self._doubt = self.blocked = False
        self.clock = clock
        self.oack = agreed.oack
        self.windowsize = agreed.windowsize
        self.blksize = agreed.blksize
        self.resent = 0
        self._allowance = _UNPROVEN_DATAGRAMS
        self._rto_max = (agreed.timeout or timeout) * 1000
        self._patience = max(agreed.timeout or 0, timeout) * retries * 1000
        # Of repeats by the timer: the `progress` that they followed, `resent` before them, how
        # often the client has answered since, and after how long (ms) it did so first.
        self._since = None
        self._before = self._answers = self._late = 0
        self._margin = _MARGIN_MIN_MS
        self._best = 0  # the shortest round trip that was measured (ms)
        # smoothed round-trip time in 1/8 ms, and its variation in 1/4 ms, as in Jacobson's paper
        self._srtt8 = -1
        self._rttvar4 = 0
        self._rto = self._estimate()
        self._stamp = self.progress = now = clock()
        self.due = ticks_add(now, self._rto)

    def _measured(self, ms):
        """A round trip took `ms`. RFC 6298 section 2: srtt += (ms - srtt) / 8,
        rttvar += (|ms - srtt| - rttvar) / 4.

        One that is far above all others is no round trip, but the client's own timer: its ACK was
        lost. It counts as a doubling."""
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
        """How long to wait by what has been measured (ms)."""
        rto = _RTO_FIRST_MS
        if self._srtt8 >= 0:
            rto = (self._srtt8 >> 3) + max(self._rttvar4, self._margin)
        return min(rto, self._rto_max)

    def _answered(self, now):
        """The client has come on by a packet that was sent more than once: its answer measures
        nothing (Karn).

        RFC 6298 keeps the doubled wait until something is measured, which a far client needs once.
        Where much is lost most windows have such a packet, and the wait would stay at its limit.
        """
        after = self._rto - ticks_diff(self.due, now)  # `due` is _rto behind the last packet
        if self._doubt:
            self._rto = max(self._rto >> 1, self._estimate())
        self._doubt = True
        if self._since == self.progress:  # it was the timer that sent it again
            self._answers = 1
            self._late = ticks_diff(now, self.progress)
            if 2 * (after + 1) < self._best:  # too soon for an answer to the repeat
                self._needless()
            else:  # it was needed, as far as can be seen yet
                self._margin = max(self._margin >> 1, _MARGIN_MIN_MS)

    def _needless(self):
        """A repeat was not needed: the client had the packet, and was late. Some boot loaders take
        the second copy for the next block. So this client gets more time from now on."""
        self._answers = 0
        self._margin = min(max(2 * self._margin, 4 * self._late), _MARGIN_MAX_MS)
        self._rto = self._estimate()

    def unsent(self, trouble):
        """A send, or a look for an answer, has failed with `trouble` (OSError). Returns True if it
        may be tried again shortly, or the transfer has ended."""
        if trouble.errno == ECONNREFUSED:
            self.outcome = DONE if self.whole() else "nobody is on the client's port any more"
        return self.outcome is not None or trouble.errno in _BUSY

    def repeat_request(self, now):
        """The client sent its request again: pump() repeats the last reply.

        Returns False if it begins anew instead.

        A client that has brought the transfer on and then asks again after a second of silence has
        been restarted (PXE ROMs always use the same port); one that has, or has sent, the whole
        file wants it once more.
        """
        if self.whole():
            return False
        if not self.proven:
            self.repeats += 1
            self.progress = now
            self._rto = self._estimate()
            self._allowance = _UNPROVEN_DATAGRAMS
        elif not 0 <= ticks_diff(now, self.progress) <= 1000:
            return False
        self._repeat()
        return True

    def expired(self, now):
        """`due` has come: prepare a repeat, or give up."""
        silence = ticks_diff(self.clock(), self.progress)  # `now` may be older than that
        if silence < 0:  # ticks_ms has wrapped: it is days
            silence = self._patience
        if self.blocked:
            if silence >= (_STUCK_MS if self.blksize > _FRAME_BYTES else self._patience):
                raise Refused(UNDEFINED, "can't send blocks of %d bytes" % self.blksize)
        elif silence >= self._patience:
            # All was sent and only the last ACK is missing: it was lost, the client is content.
            self.outcome = DONE if self.whole() else "the client does not answer"
        elif self.proven or self._allowance > 0:
            if self._since != self.progress:
                self._since = self.progress
                self._before = self.resent
                self._answers = 0
            self._rto = min(self._rto * 2, self._rto_max)
            self.due = ticks_add(now, self._rto)
            self._repeat()
        else:
            self.due = ticks_add(now, self._patience - silence)


class ReadTransfer(Transfer):
    """Sends one file to one client.

    base       highest block that the client has acknowledged; -1 while an OACK is still to be
               acknowledged
    next       the block to be sent next
    top        highest block ever sent
    last       number of the short block that ends the file, _NO_BLOCK until it has been read

    Besides `send` the caller sets, for a transfer that has the board for itself:

    hear       readinto of a socket that hears this client alone
    until      ticks_ms up to which pump() itself may hear a quick client again and again, or None

    pump(word) sends what may be sent now and goes on in the same way for each ACK of all that was
    sent, which is the rule. `word` (bytes-like) is what the client said; None: nothing, but send,
    hear or the state are other ones. Returns None, or what is for the caller to see to:
    the size of something else that came, for receive() (it is `word`, or what pump() heard, in the
    `inbox` of the ReadAhead); or -1: there is an `outcome`, or a `due` in BLOCKED_MS.
    Raises OSError if the file can't be read.
    """

    def __init__(self, source, ahead, agreed, timeout, retries, clock):
        """As Transfer, and

        source     readinto(view) -> bytes read gives block after block; seek(block) goes to one
        ahead      ReadAhead
        """
        super().__init__(agreed, timeout, retries, clock)
        self.hear = self.until = None
        self.base = self.top = -1 if agreed.oack else 0
        self.next = self.base + 1
        self.last = _NO_BLOCK
        self._last_size = 0
        # Blocks up to here were sent more than once: an ACK of one of them measures no round trip
        # (Karn), and a second ACK of one of them may be the echo of our repeat, not a gap.
        self._repeated = -1
        self._measure_at = 0  # the next block whose ACK measures the round trip
        self.pump = self._run(source, ahead).send

    def delivered(self):
        """As Transfer; all of a file that was sent to its end, for only the last ACK was lost."""
        block = self.top if self.outcome == DONE else self.base
        missing = self.blksize - self._last_size if block == self.last else 0
        return max(block, 0) * self.blksize - missing

    # -- hot path: allocates nothing but the view of a short last block, calls as little as it can

    def _run(self, source, ahead):
        """The generator behind pump(): so local variables keep the state from one ACK to the next,
        which in attributes would cost a third of a block (docs/performance.md)."""
        clock = self.clock
        pack = pack_into
        window = self.windowsize
        blksize = self.blksize
        readinto = source.readinto
        inbox = ahead.inbox
        usual = bytearray(4)  # the ACK that is hoped for
        count = min(_AHEAD_BLOCKS, (len(ahead.view) - 4) // blksize)
        packets = [ahead.view[i : i + 4 + blksize] for i in range(0, count * blksize, blksize)]
        some = min(window, count)
        whole = ahead.view[4 : 4 + (count - count % some) * blksize]
        some = whole[: some * blksize]
        last = _NO_BLOCK
        at = 1  # the block that readinto gives next
        # What of the file is in the buffer while we own it: blocks `first` to `have` - 1. What has
        # been sent has lost its end to the next one's header.
        first = have = 1
        block = 0
        stamp = asked = clock()
        busy = False
        while True:
            # What has happened was not the usual.
            if self.next < max(first, block if busy else block - 1):
                have = 1
            block = self.next
            base = self.base
            # Until its OACK is acknowledged a client has not agreed to more than one packet.
            end = base + window if base >= 0 else 0
            top = self.top
            repeated = self._repeated
            proven = self.proven
            measure_at = self._measure_at
            send = self.send
            hear = self.hear
            until = self.until
            sent = False
            heard = None
            word = inbox
            alone = False
            while word is not None:
                if not alone:  # others may have read into the buffer
                    alone = ahead.owner is self
                    if not alone:
                        have = 1
                if end > last:
                    end = last
                start = block
                busy = False
                while True:
                    # Ahead of the window too, while the client thinks, unless others read over it.
                    # The network has a copy of what was sent, and a repeat reads the file again.
                    if block >= have and (block <= end or alone) and 0 < block <= last:
                        ahead.owner = self
                        if block != at:
                            source.seek(block)
                        payload = whole if alone else some
                        size = readinto(payload)
                        first = block
                        have = block + size // blksize
                        if size < len(payload):
                            last = self.last = have
                            self._last_size = size % blksize
                            have += 1
                            if end > last:
                                end = last
                        at = have
                    if block > end:
                        break
                    if block:
                        packet = packets[block - first]
                        pack(">I", packet, 0, _DATA | block & 0xFFFF)
                        if block == last:
                            packet = packet[: 4 + self._last_size]
                    else:
                        packet = self.oack
                    try:
                        busy = send(packet) is None
                    except OSError as trouble:
                        busy = self.unsent(trouble)
                    if busy:
                        break
                    block += 1
                if block > start or busy:
                    sent = True
                    # Now: the wait begins behind the reads, which take an ESP32 a while.
                    stamp = clock()
                    if not proven:
                        self._allowance -= 1
                    if start <= top:
                        self.resent += min(block, top + 1) - start
                size = None
                if base == last:
                    self.outcome = DONE
                    size = -1
                elif busy:
                    size = -1
                elif until is not None:
                    looks = _LOOKS
                    try:
                        while size is None and looks:
                            looks -= 1
                            size = hear(inbox)
                    except OSError as trouble:
                        if self.unsent(trouble):
                            size = -1
                acked = block - 1
                pack(">I", usual, 0, _ACK | acked & 0xFFFF)
                while size != 4 or usual != word or busy or acked <= repeated:
                    if heard is not None:
                        self.base = base
                        self.progress = heard
                        # Not each round trip: that would be a tenth of all that a block costs.
                        if base >= measure_at:
                            measure_at = self._measure_at = base + _MEASURE_BLOCKS
                            self._measured(ticks_diff(heard, asked))
                        heard = None
                    if sent:
                        self.next = block
                        if block > top:
                            top = self.top = acked
                        self.blocked = busy
                        self.due = ticks_add(stamp, BLOCKED_MS if busy else self._rto)
                        sent = False
                    word = yield size
                    if word is None:
                        break
                    size = len(word)
                    until = self.until
                    alone = False
                else:
                    base = acked
                    end = base + window
                    asked = stamp
                    heard = clock()
                    if not proven:
                        proven = self.proven = True
                    if until is not None:
                        word = inbox
                        if ticks_diff(until, heard) <= 0:
                            until = None

    def receive(self, datagram, size, now):
        """A datagram came from the client: its first `size` bytes are in `datagram`.

        Invalid packets are ignored, and so are bytes behind an ACK (Windows boot manager).
        """
        if size < 4 or datagram[0]:
            return
        number = datagram[2] << 8 | datagram[3]
        if datagram[1] != ACK:
            if datagram[1] == ERROR:
                self.peer_error = bytes(datagram[2:size])
                self.outcome = PROBED if self.base < 0 else "ended by the client"
            return
        base = self.base
        block = base + ((number - base) & 0xFFFF)
        if block == base:
            # In lock-step a second ACK never sends DATA (RFC 1123 4.2.3.1). In a window it says
            # that the first block is missing (RFC 7440 section 4): go back, once for each gap.
            # U-Boot says it once and waits 5 s, edk2 says it for every block that it can't use.
            if self.windowsize > 1 and self.next > base + 1 and base > self._repeated:
                self._repeat()
            self._measure_at = self.top + 1  # an ACK that is said twice measures nothing
            if base == self._repeated and self._answers:
                self._answers += 1
                if self._answers > self.resent - self._before:  # an answer to each copy
                    self._needless()
        elif block <= self.top:  # else it is of another life of this client, or was never sent
            if block <= self._repeated:
                self._answered(now)
            self.proven = True
            self.progress = now
            self.base = block
            if block == self.top:
                self.next = block + 1
            else:
                self._repeat()

    # -- the exceptions

    def whole(self):
        """As Transfer."""
        return self.proven and self.top == self.last

    def dallying(self, now):
        """As Transfer; after a second, for before that the ACK is most likely on its way."""
        return self.whole() and ticks_diff(now, self.progress) >= 1000

    def _repeat(self):
        """Go back to the block behind `base`."""
        self._repeated = self.top
        self._measure_at = 0
        self.next = self.base + 1
