"""`python -m planner.simulator --seeds 10000`: try so many seeds, and tell which law broke where."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from planner.simulator import Outcome, simulate_many

SHOWN = 3
"""Divergences told in full: most have the same cause."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 if every law held for every seed."""
    parser = argparse.ArgumentParser(prog="python -m planner.simulator", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1500, help="how many seeds to try (%(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (%(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="how many processes share them (%(default)s)")
    given = parser.parse_args(arguments)
    began = time.perf_counter()
    outcomes = simulate_many(range(given.first, given.first + given.seeds), processes=given.processes)
    sys.stdout.write(summary(outcomes, time.perf_counter() - began) + "\n")
    broken = [outcome.divergence.message for outcome in outcomes if outcome.divergence is not None]
    sys.stdout.writelines(f"\n{message}\n" for message in broken[:SHOWN])
    return 1 if broken else 0


def summary(outcomes: Sequence[Outcome], seconds: float) -> str:
    """What was tried, in one line."""
    events, crashes = (sum(getattr(outcome, name) for outcome in outcomes) for name in ("events", "crashes"))
    divergences = sum(outcome.divergence is not None for outcome in outcomes)
    return f"{len(outcomes)} seeds, {events} events, {crashes} crashes, {divergences} divergences, {seconds:.1f} s"


if __name__ == "__main__":
    sys.exit(main())
