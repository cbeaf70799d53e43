"""Everything that may happen to an agent behind a gate, at random and under traffic: `make chaos`, `python -m tests.tools.chaos`."""
