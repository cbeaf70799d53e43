"""Devices and agents that answer on command, and a stage for a gate between them, over loopback."""
