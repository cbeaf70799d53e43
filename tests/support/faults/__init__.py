"""An API server that fails for a while in one way or another, between an operator and a scenario of `crash_points`.

Used by `test_faults`: `kinds` is the table of what goes wrong, `spell` says for how long, `trial` plays a scenario under it.
"""
