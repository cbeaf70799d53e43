"""A stand-in for the Medplum server, as far as an agent needs one. Start: `python -m tests.support.doubles.medplum --port 8103`.

It keeps every message that it got, with time and connection, and is told by a control API what to do: `docs/internals/stand-ins.md`
lists it. Pure: `records` (what happened), `directory` (who may log in, which agents there are). The shell: `server` (what
agents see), `sockets` (the agents' WebSockets), `control` (what tests see), `__main__`.
"""
