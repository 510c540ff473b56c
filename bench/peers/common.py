"""What every peer measures, and how: the median of 5 runs after 2 for warm-up, one JSON object on standard output."""

import json
import statistics
import sys
import time

ROWS = 16  # sequences decoded together
PROMPT = 32  # tokens of each prompt
STEPS = 48  # tokens decoded for each row
BATCH, LENGTH = 8, 128  # sequences and tokens of a training step
VOCAB = 8192


def prompts() -> list[list[int]]:
    return [[(17 + 7919 * row + 31 * column) % 8000 for column in range(PROMPT)] for row in range(ROWS)]


def batch() -> list[list[int]]:
    return [[(5 + 104729 * row + 7919 * column + row * column) % 8000 for column in range(LENGTH)] for row in range(BATCH)]


def median_ms(function, runs: int = 5, warmup: int = 2) -> float:
    for _ in range(warmup):
        function()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def report(peer: str, **numbers) -> None:
    json.dump({"peer": peer, **numbers}, sys.stdout)
    sys.stdout.write("\n")


def serve(peer: str, cases) -> None:
    """Says who it is, then answers each request {"case", …} on standard input with what `cases[case]` returns."""

    def say(value) -> None:
        sys.stdout.write(json.dumps(value) + "\n")
        sys.stdout.flush()

    say({"peer": peer})
    for line in sys.stdin:
        request = json.loads(line)
        say(cases[request["case"]](request))
