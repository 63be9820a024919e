"""A model of who reads a connection.

What belongs here: the steps of ``csrc/channel.c``, ``csrc/mailbox.c`` and their callers in
``syncws/input.py``, ``output.py``, ``channel.py`` and ``reader.py`` as far as they touch the
ownership, one method for each critical section, and the same names; whoever changes one changes
the other. What does not: which scenarios are tried (``test_ownership_model.py``), the real code.

A wait that the real code cuts into slices has no end here, so a lost wake-up is not healed by the
next slice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

NOWHERE, LAZY, URGENT = range(3)
AWAKE, DOZING, ASLEEP = range(3)
NOBODY, READER = -1, 9
READ, WRITE = 1, 2
HIGH = 2  # messages at which the reader thread stops reading
END = 99  # what a read brings at the end of the stream

FIELDS = (
    # channel.c
    "owner armed listed paused parked gone queued followers closed users watched "
    # mailbox.c
    "place sleep pipe "
    # the kernel: messages that came, end of stream, shut down, room to write, selector
    "kernel eof shut writable poller "
    # Python and output.c
    "inbound end pending write_mutex unread forgotten looked "
    # the peer's plans; threads as (pc, locals ...)
    "to_come threads"
).split()


class Violation(Exception):
    """An invariant does not hold."""


class State:
    """One state. Methods that change it are critical sections of C."""

    __slots__ = FIELDS

    def copy(self) -> State:
        twin = State.__new__(State)
        for name in FIELDS:
            setattr(twin, name, getattr(self, name))
        return twin

    def key(self) -> tuple[Any, ...]:
        """The same for states that differ only in which receiver is which."""
        threads, owner = self.threads, self.owner
        if len(threads) > 2 and len(threads[2]) == 6 and hash(threads[1]) > hash(threads[2]):
            threads = (threads[0], threads[2], threads[1], *threads[3:])
            owner = {1: 2, 2: 1}.get(owner, owner)
        return (owner, *[getattr(self, name) for name in FIELDS[1:-1]], threads)

    def goto(self, index: int, *thread: Any) -> None:
        threads = self.threads
        self.threads = (*threads[:index], thread, *threads[index + 1 :])


class Model:
    """The protocol, or a wrong variant of it.

    Args:
        wrong: Which variant; "" for the real one.
        receivers: For each of them the number of messages it wants.
        messages: That the peer sends.
        eof: Whether the peer closes then.
        writer: "" for none, "post" for one that does not wait, "send" for one that does.
        aborter: Whether a thread aborts the connection at some time.
        timeouts: Whether receivers may give up a read and try again.
    """

    def __init__(
        self,
        wrong: str = "",
        *,
        receivers: tuple[int, ...] = (),
        messages: int = 0,
        eof: bool = False,
        writer: str = "",
        aborter: bool = False,
        timeouts: bool = False,
    ) -> None:
        self.wrong, self.timeouts, self.writer = wrong, timeouts, writer
        self.ends = eof or aborter
        first = State()
        for name in FIELDS:
            setattr(first, name, 0)
        first.owner, first.write_mutex = NOBODY, NOBODY
        first.to_come = (messages, eof)
        first.writable = not writer
        first.listed, first.place = 1, LAZY
        programs: list[Callable[[State, int], Iterator[State]]] = [self.reader]
        threads: list[tuple[Any, ...]] = [("collect", "", 0)]
        for wanted in receivers:
            programs.append(self.receiver)
            threads.append(("pop", "", 0, wanted, 0, 0))
        if writer:
            programs.append(self.write)
            threads.append(("begin",))
        if aborter:
            programs.append(self.abort_thread)
            threads.append(("abort",))
        first.threads = tuple(threads)
        self.first, self.programs = first, programs

    # -- csrc/mailbox.c -------------------------------------------------------------

    def push(self, s: State, urgent: bool) -> None:
        if s.place == NOWHERE or urgent:
            s.place = URGENT if urgent else LAZY
        if urgent or s.sleep == ASLEEP:
            s.pipe |= s.sleep != AWAKE
            s.sleep = AWAKE

    def list(self, s: State, urgent: bool) -> None:
        s.listed = 1
        self.push(s, urgent)

    # -- csrc/channel.c -------------------------------------------------------------

    def take(self, s: State, me: int, mode: str) -> str:
        if mode == "message" and s.queued:
            return "queued"
        if s.gone:
            return "gone"
        unowned = s.owner == NOBODY or self.wrong == "an event is not checked for an owner"
        if mode == "event" and not (s.armed and unowned):
            if not (self.wrong == "an event is not checked for an owner" and s.owner != NOBODY):
                return "not armed"
        if s.parked and mode != "drain":
            return "parked"
        if s.owner != NOBODY and mode != "event":
            return "busy"
        s.armed = s.paused = 0
        s.owner = me
        return "ok"

    def leave(self, s: State, parked: int, queued: int) -> None:
        following = s.followers
        s.owner = NOBODY
        s.followers = 0
        s.parked |= parked
        if queued and self.wrong != "a delivery is not flagged":
            s.queued = 1
            for index, thread in enumerate(s.threads):
                if len(thread) == 6:
                    s.goto(index, *thread[:2], 1, *thread[3:])
        if s.gone or parked:
            self.list(s, bool(s.gone))
        elif not (s.listed or s.paused or s.parked):
            if not (following and self.wrong == "listed only if nobody follows"):
                self.list(s, False)

    def look(self, s: State, size: int) -> None:
        if self.wrong != "a look leaves it listed":
            s.listed = 0
        wanted = 0
        if not s.gone:
            if s.owner == NOBODY and not (s.paused or s.parked):
                s.armed = 1
                wanted |= READ
            if size and not s.users:
                wanted |= WRITE
        if wanted & ~s.watched:
            s.watched |= wanted
            self.watch(s)

    def watch(self, s: State) -> None:
        s.poller = s.watched

    def abort(self, s: State) -> None:
        s.gone = 1
        if (s.owner != NOBODY or s.users) and self.wrong != "an abort does not shut down":
            s.shut = 1
        if self.wrong != "an abort is not listed":
            self.list(s, True)

    def claim_close(self, s: State) -> None:
        used = s.owner != NOBODY or s.users
        if self.wrong == "closed under a user":
            used = False
        if s.gone and not used and not s.closed:
            s.closed = 1
            s.poller = 0
            self.notify(s)

    # -- syncws/output.py -----------------------------------------------------------

    def notify(self, s: State) -> None:
        """One step although the real one takes a waiter at a time: nobody waits twice."""
        for index, thread in enumerate(s.threads):
            if len(thread) >= 6 and thread[4]:
                s.goto(index, *thread[:4], 0, 1, *thread[6:])

    # -- syncws/connection.py, input.py: recv() ---------------------------------------

    def receiver(self, old: State, me: int) -> Iterator[State]:
        pc, code, stale, wanted, enlisted, news = old.threads[me]
        s = old.copy()

        def to(pc: str, code: str | int = code, stale: int = stale, wanted: int = wanted) -> State:
            s.goto(me, pc, code, stale, wanted, enlisted, news)
            return s

        def got() -> State:
            return to("pop" if wanted > 1 else "done", wanted=wanted - 1)

        if pc in ("pop", "pop again"):
            if s.inbound:
                s.inbound -= 1
                yield got()
            else:
                yield to("take" if pc == "pop" else "seen empty")
        elif pc == "take":
            code = self.take(s, me, "message")
            yield to("read" if code == "ok" else "generation", code)
        elif pc == "read":
            for count in range(1, old.kernel + 1):
                s = old.copy()
                s.kernel -= count
                yield to("decoded", count)
            if not old.kernel and (s.eof or s.shut):
                yield to("digest", END)
            elif not old.kernel and self.timeouts:
                yield to("decoded", 0)
        elif pc == "decoded":
            single = code == 1 or code == 0
            if not single or s.followers or s.gone:
                yield to("digest")
            else:
                self.leave(s, 0, 0)
                yield got() if code == 1 else to("generation", "timed out")
        elif pc == "digest":
            if code == END:
                s.end = 1
            else:
                s.inbound += code
            yield to("leave", "ok")
        elif pc == "leave":
            self.leave(s, s.end, s.inbound > 0)
            yield to("notify")
        elif pc == "notify":
            self.notify(s)
            yield to("reap" if s.gone else "generation")
        elif pc in ("reap", "reap at the end"):
            if s.write_mutex == NOBODY:
                self.claim_close(s)
                yield to("generation" if pc == "reap" else "done")
        elif pc == "generation":
            yield to("pop again", stale=0)
        elif pc == "seen empty":
            if not stale or self.wrong == "seen empty whatever came since":
                s.queued = 0
            if code == "parked":
                self.abort(s)  # finish_input() of an end without a close frame
                yield to("reap at the end")
            elif code == "gone":
                yield to("done")
            else:
                yield to("enlist" if code == "busy" else "take")
        elif pc == "enlist":
            enlisted, news = 1, 0
            yield to("follow")
        elif pc == "follow":
            stop = s.gone or s.parked or s.queued
            blind = self.wrong == "a follower does not look again"
            if blind or (s.owner != NOBODY and not stop):
                s.followers = 1
                yield to("asleep")
            else:
                enlisted = 0
                yield to("generation", "ok")
        elif pc == "asleep" and news:
            enlisted = news = 0
            yield to("generation", "ok")

    # -- syncws/reader.py, channel.py: the reader thread --------------------------------

    def reader(self, old: State, me: int) -> Iterator[State]:
        pc, back, value = old.threads[me]
        s = old.copy()

        def to(pc: str, back: str = back, value: int = value) -> State:
            s.goto(me, pc, back, value)
            return s

        if pc == "collect":
            if s.place == URGENT:
                s.place = NOWHERE
                yield to("look", "collect")
            else:
                if s.place == LAZY or s.unread:
                    yield to("tick")
                s = old.copy()
                yield to("sleep")
        elif pc == "tick":
            if s.place == LAZY:
                s.place = NOWHERE
                yield to("look", "check")
            else:
                yield to("check")
        elif pc == "check":
            if s.unread and (not s.paused or s.gone):
                s.unread = 0
            elif s.unread and s.inbound == 0:
                s.unread = s.paused = 0
                self.list(s, True)
            yield to("sleep")
        elif pc == "look":
            if s.gone:
                yield to("reap")
            elif s.end:
                self.abort(s)
                yield to("notify", "reap")
            else:
                yield to("size" if self.writer else "arm")
        elif pc == "size":
            if s.write_mutex == NOBODY:
                yield to("arm", value=s.pending)
        elif pc == "arm":
            self.look(s, value)
            yield to(back, "", 0)
        elif pc == "reap":
            if s.write_mutex == NOBODY:
                self.claim_close(s)
                s.forgotten = s.closed  # _forget(): the reader lets go of the connection
                yield to(back if back in ("collect", "check") else "collect", "", 0)
        elif pc == "notify":
            self.notify(s)
            yield to(back, "collect")
        elif pc == "sleep":
            yield to("sleep for", "", DOZING if s.unread or s.place == LAZY else ASLEEP)
        elif pc == "sleep for":
            stay = s.place == URGENT or (value == ASLEEP and s.place == LAZY)
            if self.wrong == "asleep without a look at the lists":
                stay = False
            s.sleep = AWAKE if stay else value
            yield to("wait", "stay" if stay else "")
        elif pc == "wait":
            ready = READ if s.kernel or s.eof or s.shut else 0
            event = s.poller & (ready | (WRITE if s.writable else 0))
            if event or s.pipe or back or value == DOZING:
                if event:
                    s.poller = 0
                yield to("awake", "", event)
        elif pc == "awake":
            s.sleep, s.pipe = AWAKE, 0
            yield to("event" if value else "collect")
        elif pc == "event":
            if self.wrong != "the watch is believed to last":
                s.watched = 0
            yield to("flush" if value & WRITE else "turn")
        elif pc == "flush":
            if s.write_mutex == NOBODY:
                if s.writable and not s.gone:
                    s.pending = 0
                yield to("turn" if value & READ else "look", "collect")
        elif pc in ("turn", "next turn"):
            if s.inbound >= HIGH:
                yield to("pause")
            else:
                code = self.take(s, READER, "event" if pc == "turn" else "wait")
                yield to("read" if code == "ok" else "look", "collect")
        elif pc == "pause":
            s.paused, s.armed = 1, 0
            yield to("paused")
        elif pc == "paused":
            s.unread = self.wrong != "a pause is not looked at again"
            yield to("look", "collect")
        elif pc == "read":
            if s.kernel:
                s.kernel -= 1
                yield to("digest", value=1)
            elif s.eof or s.shut:
                yield to("digest", value=END)
            else:
                yield to("leave", value=0)
        elif pc == "digest":
            if value == END:
                s.end = 1
            else:
                s.inbound += 1
            yield to("leave")
        elif pc == "leave":
            self.leave(s, s.end, s.inbound > 0)
            back = "next turn" if value == 1 else "look"
            # Who enlists from here on finds nobody inside.
            enlisted = any(len(thread) >= 6 and thread[4] for thread in s.threads)
            yield to("notify" if enlisted else back, back if enlisted else "collect", 0)

    # -- csrc/output.c, syncws/output.py: send() ----------------------------------------

    def write(self, old: State, me: int) -> Iterator[State]:
        (pc,) = old.threads[me]
        s = old.copy()
        if pc in ("begin", "flush") and s.write_mutex == NOBODY:
            s.write_mutex = me
            s.goto(me, "unlock" if s.gone else "system call")
        elif pc == "system call":
            if s.closed:
                raise Violation("written to a closed descriptor")
            s.pending = not s.writable
            s.goto(me, "settle" if s.pending else "unlock")
        elif pc == "settle":
            alone = not s.users and not s.watched & WRITE
            s.goto(me, "list" if alone and self.wrong != "output is not listed" else "unlock")
        elif pc == "list":
            self.list(s, True)
            s.goto(me, "unlock")
        elif pc == "unlock":
            s.write_mutex = NOBODY
            s.goto(me, "use" if s.pending and self.writer == "send" and not s.gone else "done")
        elif pc == "use":
            s.users += not s.gone
            s.goto(me, "done" if s.gone else "poll")
        elif pc == "poll" and (s.writable or s.shut):
            s.users -= 1
            if self.wrong != "a writer gives nothing back":
                self.list(s, True)
            s.goto(me, "done" if s.gone else "flush")
        elif pc == "poll":
            s.users -= 1
            if self.wrong != "a writer gives nothing back":
                self.list(s, True)
            s.goto(me, "done")  # its timeout came, and what it queued waits on
        else:
            return
        yield s

    def abort_thread(self, old: State, me: int) -> Iterator[State]:
        (pc,) = old.threads[me]
        s = old.copy()
        if pc == "abort":
            self.abort(s)
            s.goto(me, "notify")
        elif pc == "notify":
            self.notify(s)
            s.goto(me, "reap")
        elif pc == "reap" and s.write_mutex == NOBODY:
            self.claim_close(s)
            s.goto(me, "done")
        else:
            return
        yield s

    def network(self, old: State) -> Iterator[State]:
        messages, eof = old.to_come
        s = old.copy()
        if messages:
            s.kernel += 1
            s.to_come = (messages - 1, eof)
            yield s
        elif eof:
            s.eof, s.to_come = 1, (0, False)
            yield s
        if not old.writable:
            s = old.copy()
            s.writable = True
            yield s

    # -- exploring ------------------------------------------------------------------------

    def check(self, s: State) -> None:
        """What holds in every state."""
        unread = s.paused or s.parked or s.gone
        if s.owner == NOBODY and not unread and not (s.armed or s.listed):
            raise Violation("nobody reads it")
        inside = {index for index, thread in enumerate(s.threads) if self.owns(index, thread)}
        if inside - {0 if s.owner == READER else s.owner}:
            raise Violation("two owners")
        if s.closed and (inside or s.users):
            raise Violation("closed under a thread")
        for index in inside:
            if s.threads[index][0] == "read" and len(s.threads[index]) == 6 and s.inbound:
                raise Violation("a receiver waits although a message is there")

    @staticmethod
    def owns(index: int, thread: tuple[Any, ...]) -> bool:
        return thread[0] in ("read", "digest", "leave", "decoded")

    def is_good(self, s: State) -> bool:
        """Whether everything has come to its end, as it must from every state."""
        if any(thread[0] != "done" for thread in s.threads[1:]) or s.to_come != (0, False):
            return False
        if self.ends:
            return bool(s.closed and s.forgotten)
        return not s.pending and (not s.kernel or (s.paused and s.inbound > 0))

    def successors(self, state: State) -> Iterator[State]:
        for index, program in enumerate(self.programs):
            yield from program(state, index)
        yield from self.network(state)
