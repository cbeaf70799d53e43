"""Every write of the operator as the moment of its death: learned from one run, then tried one by one.

Used by `test_crash_points` and `test_faults`. `scenarios` says what users do, `clinic` plays one of them in a namespace of its
own, `modes` says what goes wrong at a write, `digest` what must be the same in the end, `enumeration` puts them together.
"""
