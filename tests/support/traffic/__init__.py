"""HL7 traffic with a memory: it knows of every message when it was sent, acknowledged, and whether it arrived.

`python -m tests.support.traffic --help` for people, `tests.support.traffic.generator.Traffic` for tests and benches. Nothing in here
imports anything but Python's own library and this folder (except the picture, which no other module imports), so that
the folder alone, in a bare Python container, is the whole program. docs/internals/traffic.md says what each figure means.
"""
