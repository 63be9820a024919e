"""Every interleaving of the model of who reads a connection.

What belongs here: scenarios, and wrong variants that show that the model can fail. What does not:
the model (``ownership.py``), the real code (``test_ownership_stress.py``).
"""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from ownership import Model, Violation
from ownership_closing import ClosingModel

# They compute, and take what the machine leaves them.
pytestmark = pytest.mark.timeout(300)


def explore(model: Model) -> int:
    """Tries everything; the number of states.

    Raises:
        Violation: An invariant does not hold, or a state has no way out.
    """
    numbers = {model.first.key(): 0}
    before: list[list[int]] = [[]]
    good = [0] if model.is_good(model.first) else []
    todo = deque([model.first])
    while todo:
        state = todo.popleft()
        number = numbers[state.key()]
        for following in model.successors(state):
            key = following.key()
            known = numbers.get(key)
            if known is None:
                model.check(following)
                known = numbers[key] = len(before)
                before.append([])
                todo.append(following)
                if model.is_good(following):
                    good.append(known)
            before[known].append(number)
    reached = set(good)
    while good:
        for number in before[good.pop()]:
            if number not in reached:
                reached.add(number)
                good.append(number)
    if len(reached) < len(before):
        raise Violation(f"no way out of {len(before) - len(reached)} states")
    return len(before)


SCENARIOS: dict[str, dict[str, Any]] = {
    "two receivers": {"receivers": (1, 1), "messages": 2},
    "two receivers and an end": {"receivers": (1, 1), "eof": True},
    "one receiver that times out": {"receivers": (2,), "messages": 2, "timeouts": True},
    "one receiver and an end": {"receivers": (3,), "messages": 2, "eof": True},
    "a receiver that stops": {"receivers": (1,), "messages": 2},
    "two receivers and an abort": {"receivers": (1, 1), "aborter": True},
    "an abort and an end": {"receivers": (1,), "eof": True, "aborter": True},
    "back-pressure": {"receivers": (2,), "messages": 4},
    "nobody but the reader": {"messages": 1, "eof": True},
    "a writer": {"writer": "post", "messages": 1},
    "a writer that waits": {"receivers": (1,), "messages": 1, "writer": "send"},
    "a writer and an abort": {"writer": "send", "aborter": True},
}

MUTATIONS = {
    "an event is not checked for an owner": "two receivers",
    "a delivery is not flagged": "two receivers",
    "listed only if nobody follows": "two receivers",
    "a look leaves it listed": "a receiver that stops",
    "an abort does not shut down": "two receivers and an abort",
    "an abort is not listed": "a writer and an abort",
    "closed under a user": "two receivers and an abort",
    "seen empty whatever came since": "two receivers",
    "a follower does not look again": "two receivers and an end",
    "asleep without a look at the lists": "a receiver that stops",
    "the watch is believed to last": "back-pressure",
    "a pause is not looked at again": "back-pressure",
    "output is not listed": "a writer",
    "a writer gives nothing back": "a writer that waits",
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_interleaving_keeps_the_invariants(name: str) -> None:
    assert explore(Model(**SCENARIOS[name])) > 100


@pytest.mark.parametrize("wrong", MUTATIONS)
def test_a_wrong_variant_is_caught(wrong: str) -> None:
    with pytest.raises(Violation):
        explore(Model(wrong, **SCENARIOS[MUTATIONS[wrong]]))


CLOSING: dict[str, dict[str, Any]] = {
    "nobody else": {"closers": (False,), "messages": 1},
    "somebody who is interrupted": {"closers": (True,), "messages": 1},
    "two at once": {"closers": (False, False)},
    "two at once, one of them interrupted": {"closers": (True, False)},
    "a receiver": {"closers": (False,), "receivers": (1,), "messages": 1},
    "a receiver, interrupted": {"closers": (True,), "receivers": (1,)},
    "an abort": {"closers": (False,), "aborter": True},
}

CLOSING_MUTATIONS = {
    "an end is not listed": "nobody else",
    "an end is left to nobody": "somebody who is interrupted",
    "letting go tells nobody": "two at once, one of them interrupted",
    "it looks before it says so": "nobody else",
}


@pytest.mark.parametrize("name", CLOSING)
def test_every_interleaving_of_closing_keeps_the_invariants(name: str) -> None:
    assert explore(ClosingModel(**CLOSING[name])) > 100


@pytest.mark.parametrize("wrong", CLOSING_MUTATIONS)
def test_a_wrong_variant_of_closing_is_caught(wrong: str) -> None:
    with pytest.raises(Violation):
        explore(ClosingModel(wrong, **CLOSING[CLOSING_MUTATIONS[wrong]]))
