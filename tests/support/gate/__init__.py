"""Devices and agents for tests of the gate: over loopback (`actors`), and as plain values without I/O (`scene`)."""
