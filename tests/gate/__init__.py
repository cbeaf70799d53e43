"""The gate: its core without I/O, and its relay over real sockets."""
