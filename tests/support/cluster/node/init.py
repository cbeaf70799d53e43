"""PID 1 of a node: give the node its own copies of built-in folders, report readiness, and reap zombies.

Started by `namespaces.hold` with an isolated interpreter, hence without imports from the tests. Arguments: a folder, and
`FROM=TO` pairs of host folders that shall show what is in a folder of the node instead.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

# The kubelet sets these for the whole machine. Copies are set instead, and the machine stays as it was.
TUNABLES = (
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/vm/panic_on_oom",
    "/proc/sys/kernel/panic",
    "/proc/sys/kernel/panic_on_oops",
    "/proc/sys/kernel/keys/root_maxkeys",
    "/proc/sys/kernel/keys/root_maxbytes",
)


def mount(*arguments: str) -> None:
    """Mount something, as the command of that name does."""
    subprocess.run(["mount", *arguments], check=True)


def make_private(folder: str, shown: list[str]) -> None:
    """Show the node's own folders in place of the machine's, and copies of what the kubelet tunes."""
    for pair in shown:
        place, own = pair.split("=")
        os.makedirs(own, exist_ok=True)  # noqa: PTH103 - strings all the way, this is a shell script in Python
        mount("--bind", own, place)
    for number, tunable in enumerate(TUNABLES):
        copy = f"{folder}/tunable-{number}"
        with open(tunable) as live, open(copy, "w") as file:  # noqa: PTH123 - as above
            file.write(live.read())
        mount("--bind", copy, tunable)
    # Volumes that the kubelet mounts have to be seen by the containers that containerd starts.
    mount("--make-rshared", "/")


def main() -> None:
    """Prepare, report, then reap orphans until the end."""
    if len(sys.argv) > 1:
        make_private(sys.argv[1], sys.argv[2:])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        try:
            os.wait()
        except ChildProcessError:
            time.sleep(0.5)


if __name__ == "__main__":
    main()
