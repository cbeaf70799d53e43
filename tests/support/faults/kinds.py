"""The table of faults of an API server. A new kind of fault is a new row.

Read by `test_faults`. `strike` answers instead of the API server, or blocks a call. `spoil` changes the API server's answer, so the call
was carried out. `disturb` acts on the open watches, every 1.5 s during the spell.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tests.support.faults.spell import Answer, Call, Cut, Spell, hit

if TYPE_CHECKING:
    from tests.support.faults.spell import Disturb, Spoil, Strike
    from tests.support.http_proxy import HttpProxy

REQUEST_TIMEOUT_SECONDS: Final = 3.0
"""The setting of the operators here, so that they soon stop waiting for a silent API server."""
FAULT_SECONDS: Final = 6.0
REFUSED_SECONDS: Final = 60.0
"""`REQUEUE_AFTER_REFUSED_WRITE`: the operator tries a refused write again every minute."""

WATCH_SECONDS: Final = 75.0
"""Kopf restarts a watch after 70 s without data (`settings.watching.inactivity_timeout`)."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault.

    Attributes:
        name: its name in the report.
        strike: see above.
        spoil: see above.
        disturb: see above.
        share: the share of calls that it strikes, 0 to 1.
        seed: the seed of the random choices.
        seconds: how long it lasts after each step of the user.
        longest_pause: the seconds until the operator tries again after the end of the fault, at most.
        resync_seconds: the setting of the operator; 300 s, the default, if the fault does not depend on it.
        ends_operator: whether the operator may exit, to be restarted as by a kubelet.
    """

    name: str
    strike: Strike | None = None
    spoil: Spoil | None = None
    disturb: Disturb | None = None
    share: float = 1.0
    seed: str = "1"
    seconds: float = FAULT_SECONDS
    longest_pause: float = 8.0
    resync_seconds: int = 300
    ends_operator: bool = False

    def __str__(self) -> str:
        return self.name if self.share == 1.0 or not self.share else f"{self.name}, seed {self.seed}"

    def spell(self) -> Spell:
        """Make a spell of this kind."""
        return Spell(seed=f"{self.name} {self.seed}", share=self.share, strike=self.strike, spoil=self.spoil)


def _says(status: int, reason: str, **headers: str) -> Strike:
    async def strike(spell: Spell, call: Call) -> Answer:
        hit(spell)
        return Answer.fault(status, reason, f"{call.label}: the test says so", **headers)

    return strike


async def _conflict(spell: Spell, call: Call) -> Answer | None:
    return await _says(409, "Conflict")(spell, call) if call.writes and call.resource != "events" else None


async def _forbid_deployments(spell: Spell, call: Call) -> Answer | None:
    return await _says(403, "Forbidden")(spell, call) if call.resource == "deployments" and call.writes else None


async def _forbid_pods(spell: Spell, call: Call) -> Answer | None:
    return await _says(403, "Forbidden")(spell, call) if call.resource == "pods" else None


async def _plain_text(spell: Spell, call: Call) -> Answer:
    del call
    hit(spell)
    return Answer(502, b"<html>502 Bad Gateway</html>", {"Content-Type": "text/html"})


async def _web_page(spell: Spell, call: Call) -> Answer:
    del call
    hit(spell)
    return Answer(200, b"<html>Please sign in</html>", {"Content-Type": "text/html"})


async def _no_answer(spell: Spell, call: Call) -> Answer | None:
    """Never carry out the call, and stay silent until the client has stopped waiting."""
    del call
    hit(spell)
    await asyncio.sleep(2 * REQUEST_TIMEOUT_SECONDS)
    raise Cut


async def _watch_never_answered(spell: Spell, call: Call) -> Answer | None:
    if call.watches:
        hit(spell)
        await asyncio.sleep(3600)
    return None


async def _reset(spell: Spell, call: Call) -> Answer | None:
    del call
    hit(spell)
    raise Cut


async def _half_an_answer(spell: Spell, call: Call, answer: Answer) -> Answer:
    del call
    hit(spell)
    raise Cut(answer, after=len(answer.body) // 2)


async def _slow(spell: Spell, call: Call, answer: Answer) -> Answer:
    del call
    hit(spell)
    await asyncio.sleep(REQUEST_TIMEOUT_SECONDS * 0.4)
    return answer


async def _too_slow(spell: Spell, call: Call, answer: Answer) -> Answer:
    """Carry out the call, and answer after the client has stopped waiting."""
    del call
    hit(spell)
    await asyncio.sleep(REQUEST_TIMEOUT_SECONDS * 1.5)
    return answer


async def _stale(spell: Spell, call: Call) -> Answer | None:
    """Answer a LIST with its first answer."""
    old = spell.lists.get(f"{call.path}?{sorted(call.query.items())}") if call.lists else None
    if old is not None:
        hit(spell)
    return old


async def _cut(proxy: HttpProxy, spell: Spell) -> None:
    spell.struck_calls += proxy.cut_watches()


async def _silence(proxy: HttpProxy, spell: Spell) -> None:
    proxy.silence_watches()
    hit(spell)


def _error(code: int, reason: str) -> dict[str, Any]:
    """The last event of a watch."""
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": ""}
    return {"type": "ERROR", "object": status}


EXPIRED: Final = _error(410, "Expired")


def _last_event(event: dict[str, Any]) -> Disturb:
    async def disturb(proxy: HttpProxy, spell: Spell) -> None:
        spell.struck_calls += await proxy.end_watches(event)

    return disturb


async def _anything(spell: Spell, call: Call) -> Answer | None:
    strikes = (_says(500, "InternalError"), _says(503, "ServiceUnavailable"), _plain_text, _reset, _no_answer)
    chosen = spell.random.choice((*strikes, None))
    return None if chosen is None else await chosen(spell, call)


async def _any_answer(spell: Spell, call: Call, answer: Answer) -> Answer:
    return await spell.random.choice((_half_an_answer, _slow, _too_slow))(spell, call, answer)


KINDS: Final = (
    Kind("500", _says(500, "InternalError")),
    Kind(
        "500, for longer than Kopf tries",
        _says(500, "InternalError"),
        disturb=_cut,
        seconds=75.0,
        longest_pause=16,
        ends_operator=True,
    ),
    Kind("401", _says(401, "Unauthorized"), disturb=_cut, longest_pause=10.0),
    Kind("503", _says(503, "ServiceUnavailable")),
    Kind("504", _says(504, "Timeout")),
    Kind("404, as while an API is not served", _says(404, "NotFound")),
    Kind("429 with Retry-After", _says(429, "TooManyRequests", **{"Retry-After": "1"})),
    Kind("502 of a load balancer, no JSON", _plain_text),
    Kind("200 with a web page", _web_page),
    Kind("409 for every write", _conflict),
    Kind("403 for writes of Deployments", _forbid_deployments, longest_pause=REFUSED_SECONDS),
    Kind("403 for pods", _forbid_pods),
    Kind("no answer", _no_answer, longest_pause=8.0 + REQUEST_TIMEOUT_SECONDS),
    Kind("connections reset", _reset),
    Kind("reset in the middle of an answer", spoil=_half_an_answer),
    Kind("slow", spoil=_slow),
    Kind("too slow", spoil=_too_slow, longest_pause=8.0 + REQUEST_TIMEOUT_SECONDS),
    Kind("watches cut", disturb=_cut),
    Kind("watches cut, new ones never answered", _watch_never_answered, disturb=_cut, longest_pause=WATCH_SECONDS),
    Kind("watches silent", disturb=_silence, share=0.0, resync_seconds=5),
    Kind("watches ended by 410 Gone", disturb=_last_event(EXPIRED)),
    Kind("watches ended by a 500", disturb=_last_event(_error(500, "InternalError")), ends_operator=True),
    Kind("stale LISTs", _stale, seconds=8.0, resync_seconds=5),
    Kind("stale LISTs after 410 Gone", _stale, disturb=_last_event(EXPIRED)),
    *(
        Kind("a bit of everything", _anything, _any_answer, _cut, share=0.5, seed=seed, seconds=10.0, longest_pause=16)
        for seed in "123"
    ),
)
