"""Random faults for an agent behind a gate, under traffic: `make chaos`, `python -m tests.tools.chaos`."""
