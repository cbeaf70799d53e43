"""The bench of handoffs on real nodes: what devices notice while agents change. `python -m tests.tools.handoffs`, `make bench-handoff`."""
