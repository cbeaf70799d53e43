"""A stand-in for the Medplum Agent, of any version from 3.2 to 5.1. Start: `python -m tests.support.doubles.agent`.

Its version comes from `MEDPLUM_AGENT_DOUBLE_VERSION` or `--agent-version`, its faults from `switches`, everything else from where the
real agent has it: positional arguments or `agent.properties`. What begins with `--` is the stand-in's own; the real agent has
no such options. `docs/internals/stand-ins.md` says what is simulated and what is not.

Pure, and tested without sockets: `version`, `framers`, `acks`, `byte_stream`, `properties`, `switches`, and the judgement in
`pidfile`. The shell: `__main__` (start and end of the process), `program` (start order, configuration), `link` (the server),
`listeners` (devices), `pushes` (messages to devices), `logs`.
"""
