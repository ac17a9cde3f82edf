"""One read transfer (RRQ) as a state machine: it sends one file to one client.

RFC 1350 (lock-step), 2347 (the OACK counts as block 0), 7440 (windows), RFC 1123 4.2.3.1 (a
duplicate ACK sends no DATA).
"""

from struct import pack_into
from time import ticks_add, ticks_diff

from micropython import const

from .packet import ACK, ERROR
from .transfer import BLOCKED_MS, DONE, PROBED, Transfer

_MEASURE_BLOCKS = const(8)
# How often pump() polls for the answer of a quick client: 24 us in all on the everyday board, 150
# on a Pico W. 16 were sometimes too few on an ESP32-C3: 732 us a block, not 544.
_LOOKS = const(24)
_NO_BLOCK = const(0x3FFFFFFF)  # above the number of any block
_DATA = const(3 << 16)  # the header of a DATA packet, with block 0
_ACK = const(4 << 16)


class ReadTransfer(Transfer):
    """Sends one file to one client.

    base       highest block that the client has acknowledged; -1 while an OACK is still to be
               acknowledged
    next       the block to be sent next
    top        highest block ever sent
    last       number of the short block that ends the file, _NO_BLOCK until it has been read
    until      ticks_ms up to which pump() itself may `hear` the client again and again; None: it
               leaves the wait to its caller. Set before pump()
    """

    def __init__(self, source, ahead, agreed, timeout, retries, clock):
        """As Transfer, and

        source     readinto(view) gives block after block and returns the bytes read, fewer than
                   `view` holds at the end of the file only; seek(block) goes to one, from 1
        ahead      files.ReadAhead
        """
        super().__init__(agreed, timeout, retries, clock)
        self.source = source
        self.ahead = ahead
        self.until = None
        self.base = self.top = -1 if agreed.oack else 0
        self.next = self.base + 1
        self.last = _NO_BLOCK
        self._last_size = 0
        # Blocks up to here were sent more than once: an ACK of one of them measures no round trip
        # (Karn), and a second ACK of one of them may answer our second copy, not a gap.
        self._repeated = -1
        self._measure_at = 0  # the next block whose ACK measures the round trip
        self.pump = self._run().send

    # -- hot path: allocates nothing but the view of a short last block, calls as little as it can

    def _run(self):
        """The generator behind pump(). Its local variables keep the state from one ACK to the
        next, which in attributes would cost a third of a block (docs/performance.md).

        take    the state from the attributes: at first, and when receive() or expired() has
                changed them
        fill    the buffer from the file when it lacks the next block, and ahead of the window
                while the client thinks
        send    the blocks of the window
        look    for the ACK of a quick client, if this transfer has the board for itself
        settle  bring the attributes up to date, for the timers and the journal
        yield   until the client says something. All but the usual ACK goes to receive(), after
                which the state is taken anew
        go on   after the usual ACK, that of all that was sent: the next window
        """
        clock = self.clock
        source = self.source
        pack = pack_into
        ahead = self.ahead
        inbox = ahead.inbox
        window = self.windowsize
        blksize = self.blksize
        usual = bytearray(4)  # the ACK of all that was sent
        packets, buffer_view, window_view = ahead.cut(blksize, window)
        # While we own the buffer it holds blocks buffer_first to buffer_end - 1. Sending one has
        # overwritten the last 4 bytes of the one before.
        buffer_first = buffer_end = 1
        source_at = 1  # the block that readinto() gives next
        last = self.last
        stamp = asked = clock()
        while True:  # take
            block = self.next
            base = self.base
            repeated = self._repeated
            send = self.send
            hear = self.hear
            word = inbox
            heard = clock()
            while word is not None:
                # Until its OACK is acknowledged a client has agreed to no more than one packet.
                end = base + window if base >= 0 else 0
                owned = ahead.owner is self
                if not owned:  # we go back, or another transfer has read into the buffer
                    buffer_end = 1
                start = block
                busy = False
                while not busy:
                    # fill, also ahead of the window, unless another transfer would read over it
                    if block >= buffer_end and (block <= end or owned) and 0 < block <= last:
                        ahead.owner = self
                        if block != source_at:
                            source.seek(block)
                        view = buffer_view if owned else window_view
                        size = source.readinto(view)
                        buffer_first = block
                        buffer_end = source_at = block + len(view) // blksize
                        if size < len(view):  # the end of the file
                            self.last = last = block + size // blksize
                            self._last_size = size % blksize
                    if block > end or block > last:
                        break
                    # send
                    packet = packets[block - buffer_first] if block else self.oack
                    if block:
                        pack(">I", packet, 0, _DATA | block & 0xFFFF)
                        if block == last:
                            packet = packet[: 4 + self._last_size]
                    try:
                        busy = send(packet) is None
                    except OSError as trouble:
                        busy = self.failed(trouble)
                    if not busy:
                        block += 1
                acked = block - 1
                if busy or block > start:
                    stamp = clock()  # after the reads, which take an ESP32 a while
                pack(">I", usual, 0, _ACK | acked & 0xFFFF)
                size = 0
                if base == last:
                    self.outcome = DONE
                elif not busy and self.until is not None and ticks_diff(self.until, heard) > 0:
                    looks = _LOOKS  # look
                    try:
                        while not size and looks:
                            looks -= 1
                            size = hear(inbox)
                    except OSError as trouble:
                        self.failed(trouble)
                while size != 4 or word != usual or busy or acked <= repeated:
                    if base > self.base:  # settle
                        self.base = base
                        self.proven = True
                        self.progress = heard
                        # Not each round trip: that would be a tenth of all that a block costs.
                        if base >= self._measure_at:
                            self._measure_at = base + _MEASURE_BLOCKS
                            self._measured(ticks_diff(heard, asked))
                    if busy or block > self.next:
                        if self.next <= self.top:
                            self.resent += min(acked, self.top) + 1 - self.next
                        if acked > self.top:
                            self.top = acked
                        if not (busy or self.proven):
                            self._allowance -= 1
                        self.next = block
                        self.blocked = busy and (self.blocked or stamp)
                        self.due = ticks_add(stamp, BLOCKED_MS if busy else self._rto)
                    if size and not self.outcome:
                        self.receive(word, size, clock())
                        if not self.outcome:
                            word = None
                            break
                    word = yield busy or self.outcome is not None
                    if word is None:
                        break
                    size = len(word)
                base = acked  # go on; after None take sets these anew
                asked = stamp
                heard = clock()

    # -- the unusual

    def receive(self, datagram, size, now):
        """As Transfer. Invalid packets are ignored, and so are bytes behind an ACK (Windows boot
        manager sends some)."""
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
            # A duplicate ACK never sends DATA in lock-step (RFC 1123 4.2.3.1). In a window it
            # says that the first block is missing (RFC 7440 section 4): go back, once a gap.
            # U-Boot says it once and waits 5 s, edk2 says it for every block that it can't use.
            if self.windowsize > 1 and self.next > base + 1 and base > self._repeated:
                self._repeat()
            self._measure_at = self.top + 1  # a duplicate ACK measures nothing
            if base == self._repeated and self._answers:
                self._answers += 1
                if self._answers > self.resent - self._before:  # an answer to each copy
                    self._needless()
        elif block <= self.top:  # else it is of an earlier transfer, or was never sent
            if block <= self._repeated:
                self._answered(now)
            self.proven = True
            self.progress = now
            self.base = block
            if block == self.top:
                self.next = block + 1
            else:
                self._repeat()

    def delivered(self):
        """As Transfer. After DONE up to the last block sent, even if its ACK was lost."""
        block = self.top if self.outcome == DONE else self.base
        missing = self.blksize - self._last_size if block == self.last else 0
        return max(block, 0) * self.blksize - missing

    def whole(self):
        """As Transfer."""
        return self.proven and self.top == self.last

    def dallying(self, now):
        """As Transfer; after a second, for until then the ACK is most likely on its way."""
        return self.whole() and ticks_diff(now, self.progress) >= 1000

    def _repeat(self):
        """Go back to the block after `base` and read the file again, for the buffer has lost the
        end of what was sent."""
        if self.ahead.owner is self:
            self.ahead.owner = None
        self._repeated = self.top
        self._measure_at = 0
        self.next = self.base + 1
