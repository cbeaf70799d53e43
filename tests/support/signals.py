"""What a test run inherits of its caller's signals, and must not pass on to the programs that tests start.

A job in the background ignores SIGINT, `nohup` lets it ignore SIGHUP, and a program inherits what is ignored or blocked: then a
test's own Ctrl-C never reaches the program. Called by `tests/conftest.py`, in each worker too.
"""

from __future__ import annotations

import signal

_PYTHON_S_OWN = {signal.SIGPIPE, getattr(signal, "SIGXFSZ", signal.SIGPIPE)}
"""Python ignores these itself, and `subprocess` restores them."""


def pass_on_nothing() -> None:
    """Let programs that this process starts have the default disposition of every signal. This process goes on ignoring what it ignored.

    A handler is not inherited by another program, being ignored is: so what is ignored gets a handler that does nothing.
    """
    for number in signal.valid_signals() - _PYTHON_S_OWN:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda _number, _frame: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
