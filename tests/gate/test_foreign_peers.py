"""HL7 clients of other people in front of servers of other people: behind the gate the same arrives as without it.

A client is one file in `tests/gate/peers`. A row here names it, its server, and what it is tried with. Each row runs the
client twice: directly in front of the server, and through the gate.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Final

import pytest

from medplum_agent_operator.gate.effects import Kind
from tests.gate.conftest import gate
from tests.support.gate.peers import PEERS, jars, node_modules, said_by, serving, wheels

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

TEXT: Final = "MSH|^~\\&|DEV|LAB|MED|PLUM|20261125||ADT^A01|{}|P|2.5\rEVN|A01|20261125\rPID|1||7||{}\r"


def plan(number: int, content: str = "MILLER^ANN", *, each: bool = False, waits: bool = True) -> dict[str, object]:
    """Return what a client sends. `each`: on a connection for each message; `waits`: for each answer."""
    messages = [TEXT.format(f"M{one}", content) for one in range(number)]
    return {"messages": messages, "each": each, "waits": waits}


CLOSE: Final = "close behind the last write"
LOST: Final = {Kind.DROPPED, Kind.JUNK, Kind.UNANSWERED, Kind.UNDELIVERED}

SITUATIONS: Final = {
    "100 in sequence": plan(100),
    "1 MB": plan(1, "x" * 1_000_000),
    "umlauts": plan(10, "Müßiggänger^Jörg^Ægir^Søren^Łukasz^山田"),
    "a connection for each": plan(20, each=True),
    CLOSE: plan(30, waits=False),
}
ONE_BY_ONE: Final = ("1 MB", "a connection for each")

ROWS: Final = [
    ("medplum-from-5.cjs", "medplum-from-5.cjs", SITUATIONS),
    ("medplum-before-5.cjs", "medplum-before-5.cjs", SITUATIONS),
    ("python-hl7.py", "python-hl7.py", SITUATIONS),
    ("simple-hl7.cjs", "simple-hl7.cjs", SITUATIONS),
    # It waits for each answer, and cannot do otherwise.
    ("mllp-node.cjs", "mllp-node.cjs", [one for one in SITUATIONS if one != CLOSE]),
    # Its server adds each message to the ones before it on the connection, and answers the first one again and again.
    ("node-hl7.cjs", "node-hl7.cjs", ONE_BY_ONE),
    ("node-hl7.cjs", "medplum-from-5.cjs", SITUATIONS),
]


if os.environ.get("JAVA_PEERS"):  # set by `make gate-peers-java`
    ROWS.append(("HapiPeer.java", "HapiPeer.java", [one for one in SITUATIONS if one != CLOSE]))


def command(peer: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """Return the command that runs a peer in a role, and its environment."""
    program = [str(PEERS / peer), *arguments]
    if peer.endswith(".py"):
        return [sys.executable, *program], {"PYTHONPATH": str(wheels())}
    if peer.endswith(".java"):
        return ["java", "-cp", f"{jars()}/*", *program], {}
    return ["node", *program], {"NODE_PATH": str(node_modules())}


@pytest.mark.parametrize(
    ("client", "server", "situation"),
    [pytest.param(*row[:2], one, id=f"{row[0]}-{row[1]}-{one}") for row in ROWS for one in row[2]],
)
async def test_the_same_arrives_as_without_a_gate(client: str, server: str, situation: str, tmp_path: Path) -> None:
    """The same messages in the same order, and the same answers.

    A sender that closes without reading its answers may make its own kernel drop some, with a gate and without. Then all that
    reached the gate has to arrive: a beginning without a gap, and nothing that the gate had and dropped.
    """
    sent = tmp_path / "plan.json"
    sent.write_text(json.dumps(SITUATIONS[situation]), encoding="utf-8")
    names = [text.split("|")[9] for text in json.loads(sent.read_text(encoding="utf-8"))["messages"]]
    starts, environment = command(server, "server")
    async with serving(starts, **environment) as running, gate(running.port) as relay:
        asks, environment = command(client, "client", str(running.port), str(sent))
        answers = await said_by(asks, **environment)
        arrived = await running.quiet()
        asks, environment = command(client, "client", str(relay.port), str(sent))
        assert answers == await said_by(asks, **environment)
        through = await running.quiet()
        assert names[: len(through) or 1] == [line.split(" ")[1] for line in through]
        assert set() == LOST & set(relay.counted.counts)
        if situation != CLOSE:
            assert names == [line.split(" ")[1] for line in arrived]
            assert arrived == through
