"""Mutation testing of what the pure core decides: does a test notice when a decision is another one?

`make mutants` lets [mutmut](https://mutmut.readthedocs.io) change each decision in every small way that it knows and runs the tests without a
cluster against it. What survives is killed by a new test, or stands in `explained.toml` with the reason why nobody could notice.
"""

from __future__ import annotations

from typing import Final

CORE: Final = "medplum_agent_operator/core"
MODULES: Final = {
    "approval": "policy/approval",
    "checks": "policy/checks",
    "downtime": "policy/downtime",
    "downtime_measurement": "report/downtime_measurement",
    "drain": "policy/drain",
    "failure": "policy/failure",
    "identity": "observed/identity",
    "model": "observed/model",
    "plan": "plan",
    "rollback": "rollout/rollback",
    "strategy": "policy/strategy",
    "verdict": "policy/verdict",
    "version": "observed/version",
    "windows": "policy/windows",
}
"""Where it is decided what happens to an agent, and what is known of it (`model`); the others read, render and tell."""
TESTS: Final = (
    "tests/unit",
    "tests/golden",
    *(f"tests/property/test_{name}.py" for name in ("classification", "takeovers", "versions", "windows")),
)
"""Tests that need no cluster. Without stories and the state machine, which take minutes to say what others say in seconds."""
