"""The demo: `make demo` tells the operator's story on a local cluster, with real commands, and checks every step of it."""
