"""One write transfer (WRQ) as a state machine, the other direction of rrq.py.

RFC 1350 (lock-step), 2347 (the OACK stands in for ACK 0), 7440 section 4 (one ACK a window, and
one of the last good block for each gap). The last block is acknowledged only when the whole file
is safely in its place.
"""

from time import ticks_add, ticks_diff

from micropython import const

from .packet import ACK, DATA, ERROR, ILLEGAL, Refused
from .transfer import BLOCKED_MS, DONE, Transfer

_DALLY = const(2)  # longest waits in which the last ACK is repeated if the client asks


class WriteTransfer(Transfer):
    """Takes one file from one client.

    base  last block that has been written; all before it have been too
    """

    def __init__(self, sink, ahead, agreed, timeout, retries, clock):
        """As Transfer, and

        sink  write(data) takes block after block, commit() makes the file at `path` of them
        ahead  not used, for a ReadTransfer has it
        """
        super().__init__(agreed, timeout, retries, clock)
        self.sink = sink
        self.path = sink.path
        self._ack = bytearray((0, ACK, 0, 0))
        self._block = None  # data that came and is still to be written
        self.base = 0
        self._bytes = 0  # written
        self._acked = 0  # block of the last ACK sent; the OACK counts as block 0
        self._answer = True  # pump() is to send an ACK
        self._complained = False  # an ACK was sent for the gap after `base`
        self._repeated = False  # the last ACK was: the next block measures no round trip (Karn)
        self._echoes = 0  # ACKs sent twice: each may bring a duplicate of its block
        self._finished = False
        self._stamp = self.progress  # when the last ACK was sent

    def receive(self, datagram, size, now):
        """As Transfer. A block is kept for pump() to write it. Invalid packets are ignored."""
        if size < 4 or datagram[0]:
            return
        number = datagram[2] << 8 | datagram[3]
        if datagram[1] != DATA:
            if datagram[1] == ERROR and not self._finished:
                self.peer_error = bytes(datagram[2:size])
                self.outcome = "ended by the client"
            return
        ahead = (number - self.base) & 0xFFFF
        if ahead == 1 and not self._finished:
            if self.base == self._acked and not self._repeated:
                self._measured(ticks_diff(now, self._stamp))
            if self._repeated:
                self._answered(now)
            self._block = memoryview(datagram)[4:size]
            self.proven = True
            self.progress = now
        elif ahead == 0 and self.base == self._acked and self.base:
            # A duplicate of the last block of a window: the ACK was lost. Or it answers an ACK
            # that was sent twice, and an answer would double all that follows (RFC 1123 4.2.3.1).
            if self._echoes:
                self._echoes -= 1
                if self._answers:  # the timer had sent that ACK
                    self._needless()
            else:
                self._repeat()
        elif self.windowsize > 1 and 1 < ahead < 0x8000 and not self._complained:
            self._complained = True
            self._answer = self.proven or self._allowance > 0

    def pump(self, word=None):
        """As Transfer: write the block that came, and send the ACK that is due."""
        if word is not None:
            self.receive(word, len(word), self.clock())
        block = self._block
        if self.outcome or (block is None and not self._answer):
            return self.outcome is not None
        begins = block is not None or self.blocked or not self.proven  # a new wait
        if block is not None:
            self._write(block)
        busy = False
        if self._answer:
            busy = self._acknowledge()
        self._stamp = now = self.clock()
        self.blocked = busy and (self.blocked or now)
        if busy:
            self.due = ticks_add(now, BLOCKED_MS)
        elif begins:  # a packet that brings nothing new puts off no timer
            self.due = ticks_add(now, self._rto_max * _DALLY if self._finished else self._rto)
        return busy or self._finished

    def _write(self, block):
        self._block = None
        if len(block) > self.blksize:
            raise Refused(ILLEGAL, "block longer than blksize")
        self.sink.write(block)
        self.base += 1
        self._bytes += len(block)
        if not self._repeated:
            self._echoes = 0
        self._complained = self._repeated = False
        if len(block) < self.blksize:
            self.sink.commit()
            self._finished = True
        self._answer = self._finished or self.base - self._acked >= self.windowsize

    def _acknowledge(self):
        """Send the ACK. Returns True if the network does not take it just now."""
        # A client that sends blocks has had its OACK; a second one tells atftp of no gap.
        packet = self.oack
        if not packet or self.base or self._complained:
            packet = self._ack
            packet[2] = self.base >> 8 & 0xFF
            packet[3] = self.base & 0xFF
        try:
            busy = self.send(packet) is None
        except OSError as trouble:
            busy = self.failed(trouble)
        self._answer = busy
        self._acked = self.base
        if not self.proven and not busy:
            self._allowance -= 1
        return busy

    def delivered(self):
        """As Transfer."""
        return self._bytes

    def whole(self):
        """As Transfer."""
        return self._finished

    def dallying(self, now):
        """As Transfer."""
        return self._finished

    def expired(self, now):
        """`due` has come: prepare a repeat, or give up."""
        if self._finished and not self.blocked:
            self.outcome = DONE
        else:
            super().expired(now)

    def _repeat(self):
        self.resent += 1
        self._echoes += 1
        self._answer = self._repeated = True
