"""A stand-in for the Medplum server, with what an agent needs. Start: `python -m tests.support.doubles.medplum --port 8103`.

It records every message, with time and connection, and has a control API: `docs/internals/stand-ins.md`
lists it. Pure: `records` (what happened), `directory` (who may log in, which agents there are). The shell: `server` (what
agents see), `sockets` (the agents' WebSockets), `control` (what tests see), `__main__`.
"""
