"""Tests on real nodes: pods that are processes, probes, signals, connections. Run alone: they measure pauses."""
