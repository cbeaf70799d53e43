"""Mutation testing of the pure core: does a test notice when a decision changes?

`make mutants` lets [mutmut](https://mutmut.readthedocs.io) change each decision in small ways, and runs the tests that need no cluster against
each change. A survivor needs a new test, or an entry in `explained.toml` with the reason why it makes no difference.
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
"""The modules that decide, and the values that they decide on (`model`). Other modules read, render and report."""
TESTS: Final = (
    "tests/unit",
    "tests/golden",
    *(f"tests/property/test_{name}.py" for name in ("classification", "takeovers", "versions", "windows")),
)
"""Tests that need no cluster, without stories and the state machine, which take minutes."""
