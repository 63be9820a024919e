"""The model of who reads a connection, with a thread in ``close()``.

What belongs here: the steps of ``syncws/ending.py`` and ``syncws_end()``, and what the reader
thread does about a connection that is being closed. What does not: the rest (``ownership.py``),
the scenarios (``test_ownership_model.py``).

Here the input ends with a close frame, and TCP some time after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ownership import END, NOBODY, NOWHERE, READ, READER, Model, State, Violation


class ClosingModel(Model):
    """The protocol with one or two threads in ``close()``, or a wrong variant of it.

    Args:
        wrong: Which variant; "" for the real one.
        closers: For each of them whether a Ctrl-C may end its wait.
        options: As for :class:`Model`.
    """

    def __init__(self, wrong: str = "", *, closers: tuple[bool, ...], **options: Any) -> None:
        super().__init__(wrong, eof=True, **options)
        first, threads = self.first, self.first.threads
        self.interrupts = {}
        for interrupt in closers:
            self.interrupts[len(threads)] = interrupt
            self.programs.append(self.closer)
            # The last one tells them from receivers.
            threads = (*threads, ("take", "", 0, 0, 0, 0, "closer"))
        first.threads = threads
        # First its close frame, then the end of TCP.
        first.to_come = (first.to_come[0], 2)

    # -- csrc/channel.c -------------------------------------------------------------

    def end(self, s: State) -> bool:
        """syncws_end()"""
        if s.users or s.closed:
            return False
        s.owner = NOBODY
        s.gone = s.closed = 1
        s.armed = s.followers = 0
        if self.wrong != "an end is not listed":
            self.list(s, False)
        return True

    def leave(self, s: State, parked: int, queued: int) -> None:
        before = (s.listed, s.place)
        super().leave(s, parked, queued)
        if self.wrong == "an end is left to nobody" and parked and not s.gone:
            s.listed, s.place = before

    def list(self, s: State, urgent: bool) -> None:
        if not (self.wrong == "an end is left to nobody" and s.parked):
            super().list(s, urgent)

    def watch(self, s: State) -> None:
        """Not in the same step as :meth:`look`: see the reader's "watch"."""

    # -- syncws/ending.py: close() ----------------------------------------------------

    def closer(self, old: State, me: int) -> Iterator[State]:
        pc, code, _, _, enlisted, news, name = old.threads[me]
        s = old.copy()

        def to(pc: str, code: str | int = code) -> State:
            s.goto(me, pc, code, 0, 0, enlisted, news, name)
            return s

        if pc == "take":
            code = self.take(s, me, "drain")
            if code == "ok":
                yield to("park" if s.end else "read")
            else:
                yield to("enlist" if code == "busy" else "list", "")
        elif pc == "read":
            if s.kernel:
                s.kernel -= 1
                yield to("digest", 1)
            elif s.eof or s.shut:
                yield to("digest", END)
            elif self.interrupts[me]:
                yield to("leave", "interrupted")
        elif pc == "digest":
            if code == END:
                s.end = 1
            else:
                s.inbound += 1
            yield to("park" if s.end else "leave", "")
        elif pc == "park":
            s.parked, s.queued = 1, s.queued or s.inbound > 0
            yield to("tell")
        elif pc == "tell":
            self.notify(s)
            yield to("drain")
        elif pc == "drain":
            if s.eof == 2 or s.shut:
                yield to("end")
            elif self.interrupts[me]:
                yield to("leave", "interrupted")
        elif pc == "end":
            if s.write_mutex == NOBODY:
                if self.end(s):
                    yield to("close")
                else:
                    self.abort(s)
                    yield to("leave")
        elif pc == "close":
            if s.looked:
                s.poller = 0
            if self.interrupts[me]:
                yield to("done")
                s = old.copy()
                s.poller = 0 if s.looked else s.poller
            yield to("detach")
        elif pc == "detach":
            if not s.looked:
                s.forgotten = 1
            self.notify(s)
            yield to("done")
        elif pc == "leave":
            self.leave(s, s.end, s.inbound > 0)
            yield to("notify")
        elif pc == "notify":
            self.notify(s)
            yield to("reap" if s.gone else "list" if code == "interrupted" else "take")
        elif pc == "reap":
            if s.write_mutex == NOBODY:
                self.claim_close(s)
                yield to("list")
        elif pc == "list":
            # The `finally` of close().
            if not s.gone:
                self.list(s, True)
            yield to("done" if code == "interrupted" else "closed?", "")
        elif pc == "enlist":
            enlisted, news = 1, 0
            yield to("follow")
        elif pc == "follow":
            if s.owner != NOBODY and not s.gone:
                s.followers = 1
                yield to("asleep")
            else:
                enlisted = 0
                yield to("take")
        elif pc == "asleep" and news:
            enlisted = news = 0
            yield to("take")
        elif pc == "closed?":
            # wait_until(): until the reader thread or whoever else has closed it.
            enlisted, news = 1, 0
            yield to("look")
        elif pc == "look":
            yield to("done" if s.closed else "wait")
        elif pc == "wait" and news:
            enlisted = news = 0
            yield to("closed?")

    def receiver(self, old: State, me: int) -> Iterator[State]:
        thread = old.threads[me]
        if thread[:2] == ("seen empty", "parked"):
            # finish_input(): it answers, and leaves the rest to others.
            s = old.copy()
            self.list(s, False)
            s.goto(me, "done", *thread[1:])
            yield s
        else:
            yield from super().receiver(old, me)

    # -- syncws/channel.py, ending.py: the reader thread --------------------------------

    def reader(self, old: State, me: int) -> Iterator[State]:
        pc, back, value = old.threads[me]
        s = old.copy()

        def to(pc: str, back: str = back, value: int = value) -> State:
            s.goto(me, pc, back, value)
            return s

        if pc in ("collect", "tick") and s.forgotten and s.place != NOWHERE:
            s.place = NOWHERE  # its token names nothing any more
            yield to("collect")
        elif pc == "look":
            late = self.wrong == "it looks before it says so"
            if not late:
                s.looked = 1
            if s.gone:
                s.looked = 1
                yield to("reap")
            elif s.end:
                s.looked = 1
                yield to("take to drain")
            else:
                yield to("arm")
        elif pc == "arm":
            watched = s.watched
            self.look(s, 0)
            yield to("watch" if s.watched != watched else "looked")
        elif pc == "watch":
            if not s.closed:  # else there is no descriptor any more
                s.poller = s.watched
            yield to("looked")
        elif pc == "looked":
            s.looked = 1
            yield to(back, "", 0)
        elif pc == "event" and s.end:
            s.watched = 0
            yield to("take to drain", "collect")
        elif pc == "wait":
            ended = s.eof == 2 if s.end else s.eof
            ready = READ if s.kernel or ended or s.shut else 0
            event = s.poller & ready
            if event or s.pipe or back or value == 1:
                if event:
                    s.poller = 0
                yield to("awake", "", event)
        elif pc == "take to drain":
            code = self.take(s, READER, "drain")
            yield to("drain" if code == "ok" else "reap" if code == "gone" else back)
        elif pc == "drain":
            yield to("end" if s.eof == 2 or s.shut else "stop")
        elif pc == "end":
            if s.write_mutex == NOBODY:
                if self.end(s):
                    s.poller = 0
                else:
                    self.abort(s)
                yield to("stop")
        elif pc == "stop":
            # syncws_leave(), of an owner.
            if s.owner == READER:
                self.leave(s, 0, 0)
            yield to("stopped")
        elif pc == "stopped":
            self.notify(s)
            yield to("go on")
        elif pc == "go on":
            if s.gone:
                self.list(s, True)
            else:
                s.poller = READ
            yield to(back)
        else:
            for s in super().reader(old, me):
                if pc == "reap":
                    s.poller = 0  # unwatch()
                    if self.wrong != "letting go tells nobody":
                        self.notify(s)
                yield s

    def network(self, old: State) -> Iterator[State]:
        messages, ends = old.to_come
        if messages or not ends:
            yield from super().network(old)
        else:
            s = old.copy()
            s.eof += 1
            s.to_come = (0, ends - 1)
            yield s

    # -- exploring ------------------------------------------------------------------------

    def check(self, s: State) -> None:
        super().check(s)
        if s.forgotten and s.poller:
            raise Violation("watched although nobody knows it any more")

    @staticmethod
    def owns(index: int, thread: tuple[Any, ...]) -> bool:
        return Model.owns(index, thread) or thread[0] in ("park", "tell", "drain", "end")
