"""The command line of ``scripts/fuzz``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from scripts.fuzzing.judge import Judge
from scripts.fuzzing.mutants import Mutants

USAGE = "[--inputs N] [--seed S] [--json]; see scripts/fuzz --help"
GOLDEN = Path(__file__).parents[2] / "tests" / "unit" / "golden"
SAID_EVERY = 10_000
ESCAPES_SHOWN = 20


def whole_messages() -> list[bytes]:
    """The golden messages of the wire format, as they lie in a shard queue, and as in the ingress queue."""
    golden = [path.read_bytes().strip() for path in sorted(GOLDEN.glob("*.json"))]
    return [*golden, *(raw.replace(b"pipeline.events.{3}", b"pipeline") for raw in golden)]


def fuzz(inputs: int, seed: int, judge: Judge) -> list[dict[str, Any]]:
    """Put ``inputs`` broken messages before the judge; those that escaped."""
    mutants = Mutants(whole_messages(), seed)
    escapes: list[dict[str, Any]] = []
    for number in range(inputs):
        raw = mutants.next()
        how = judge.escape(raw)
        if how is not None and len(escapes) < ESCAPES_SHOWN:
            escapes.append({"number": number, "how": how, "message": raw.decode("latin-1")})
            click.echo(f"escape {number}: {how}\n  {raw[:2000]!r}", err=True)
        if number % SAID_EVERY == SAID_EVERY - 1:
            click.echo(f"{number + 1:,} of {inputs:,}", err=True)
    return escapes


@click.command("scripts/fuzz", add_help_option=False, options_metavar=USAGE)
@click.option("--inputs", type=click.IntRange(min=1), default=100_000)
@click.option("--seed", type=int, default=1)
@click.option("--json", "as_json", is_flag=True)
def main(inputs: int, seed: int, as_json: bool) -> None:  # noqa: FBT001 - click gives it so
    """Run, and exit 1 if a message escapes."""
    begun = time.monotonic()
    judge = Judge()
    escapes = fuzz(inputs, seed, judge)
    seconds = time.monotonic() - begun
    if as_json:
        found = {
            "inputs": inputs,
            "seed": seed,
            "seconds": round(seconds, 1),
            "outcomes": dict(judge.outcomes),
            "slowest_ms": round(judge.slowest * 1000, 1),
            "escapes": escapes,
            "ok": not escapes,
        }
        click.echo(json.dumps(found))
    else:
        click.echo(f"{inputs:,} broken messages in {seconds:.0f} s (seed {seed}), {len(escapes)} escapes")
        for outcome, count in judge.outcomes.most_common():
            click.echo(f"  {outcome}: {count:,}")
        click.echo(f"  slowest: {judge.slowest * 1000:.1f} ms")
    sys.exit(1 if escapes else 0)


if __name__ == "__main__":
    main(prog_name=main.name)
