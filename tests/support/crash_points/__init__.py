"""Crash points: every write of the operator as the moment of its death, learned from undisturbed runs and tried one by one.

Used by `test_crash_points` and `test_faults`. `scenarios` defines what users do, `clinic` plays one scenario in its own namespace,
`modes` defines what goes wrong at a write, `digest` what must be equal in the end, and `enumeration` combines them.
"""
