"""Tests of the gate: its core without I/O, and its relays over real sockets."""
