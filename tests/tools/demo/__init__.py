"""The demo: `make demo` shows the operator at work on a cluster, with real commands, and checks every step."""
