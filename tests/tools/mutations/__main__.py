"""`python -m tests.tools.mutations [module ...]`, `make mutants`: mutate, show, write results.json. Exits with 0 if each survivor is explained."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table

from tests.support.cluster.progress import say
from tests.tools.mutations import MODULES
from tests.tools.mutations.mutants import SURVIVED, UNDECIDED, Mutant, MutationError, explanations, found, prepare, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.tools.mutations.mutants import Explanation

OUT: Final = Path("build") / "mutations"


def main(arguments: list[str]) -> int:
    """Run mutmut; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.tools.mutations",
        description="Change each decision of the core in small ways, and list the changes that no test notices.",
    )
    parser.add_argument(
        "modules", nargs="*", metavar="module", help=f"modules of the core: {', '.join(MODULES)} (default: all)"
    )
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="parallel processes (default: one for each core)"
    )
    options = parser.parse_args(arguments)
    if unknown := set(options.modules) - set(MODULES):
        parser.error(f"not among the modules: {', '.join(sorted(unknown))}")
    modules = options.modules or list(MODULES)
    OUT.mkdir(parents=True, exist_ok=True)
    log = OUT / "mutmut.log"
    say(f"Mutating {', '.join(modules)}: two to ten seconds a mutant on one core. mutmut's output: {log}")
    try:
        with tempfile.TemporaryDirectory(prefix="medplum-mutants-") as folder:
            prepare(Path(folder), modules)
            run(Path(folder), log.resolve(), processes=options.processes)
            mutants = found(Path(folder))
    except MutationError as error:
        say(str(error))
        return 1
    return judge(mutants, modules, explanations(), OUT)


def judge(mutants: Sequence[Mutant], modules: Sequence[str], explained: Sequence[Explanation], folder: Path) -> int:
    """Show and write the results. Return 1 if a survivor is unexplained, or an explained mutant no longer survives; else 0."""
    known = [one for one in explained if one.where.partition(".")[0] in modules]
    survivors = [one for one in mutants if one.outcome == SURVIVED]
    unexplained = [one for one in survivors if not any(each.fits(one) for each in known)]
    stale = [each for each in known if not any(each.fits(one) for one in survivors)]
    undecided = [one for one in mutants if one.outcome in UNDECIDED]
    _show(mutants, unexplained, modules)
    for one in unexplained:
        say(f"Survives unexplained: {one.where}: {one.becomes}   ({one.name})")
    for each in stale:
        say(f"Explained, but no longer survives: {each.where}: {each.becomes}")
    for one in undecided:
        say(f"Not decided ({one.outcome}): {one.name}")
    path = folder / "results.json"
    path.write_text(
        json.dumps(
            {"modules": list(modules), "survivors": [asdict(one) for one in survivors]}, indent=1, ensure_ascii=False
        )
    )
    say(f"Written to {path}.")
    return 1 if unexplained or stale or undecided or not mutants else 0


def _show(mutants: Sequence[Mutant], unexplained: Sequence[Mutant], modules: Sequence[str]) -> None:
    table = Table(title="Mutants of the core's decisions")
    for heading in ("module", "mutants", "killed", "explained", "unexplained", "score"):
        table.add_column(heading, justify="left" if heading == "module" else "right")
    for name in (*modules, None):
        mine = [one for one in mutants if name in (None, one.module)]
        left = Counter(one.outcome == SURVIVED for one in mine)
        open_ones = sum(name in (None, one.module) for one in unexplained)
        score = f"{100 * left[False] / len(mine):.1f} %" if mine else "-"
        cells = (len(mine), left[False], left[True] - open_ones, open_ones)
        table.add_row(name or "all", *map(str, cells), score)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
