"""The child process: measures what it is told and says so line by line.

Started by `parent` as `python -m luna_tf.benchmark.child`. Reads one JSON
object from stdin and writes one JSON object per event to stdout:

* `{"device": …}` once, before anything is built;
* `{"started": index}` before a case may need memory for the first time;
* `{"extra_bytes": [index, bytes]}` (memory);
* `{"started": index}` again before each step of a round, and
  `{"round": {index: seconds}}` after each round (time);
* `{"cache_bytes": [index, bytes]}` for a case with a cache (time);
* `{"failed": [index, reason]}` for a case that raised.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from luna_tf.benchmark.cases import TOKEN, Case, Settings

# What the backends say when they are refused memory.
_MEMORY_WORDS = ("resourceexhausted", "resource_exhausted", "out of memory")


def main() -> None:
    """Entry of the process."""
    job = json.load(sys.stdin)
    # Whatever libraries print must not mix with the events.
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def emit(event: dict[str, Any]) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    for event in run(job, emit):
        emit(event)


def run(
    job: dict[str, Any], emit: Callable[[dict[str, Any]], None]
) -> Iterator[dict[str, Any]]:
    """Does a job and yields its events.

    Args:
        job: `task` (`memory` or `time`), `settings` and `cases` (lists of
            fields), and for `time` also `repeats` and `seconds`.
        emit: takes the events that come up inside of a round.

    Yields:
        Events as in the heading of this module.
    """
    from luna_tf.benchmark import stepping

    yield {"device": stepping.device()}
    settings = Settings(**job["settings"])
    cases = [Case(**fields) for fields in job["cases"]]
    if job["task"] == "memory":
        yield from _memory(settings, cases)
    else:
        yield from _time(settings, cases, job, emit)


def _memory(settings: Settings, cases: list[Case]) -> Iterator[dict[str, Any]]:
    from luna_tf.benchmark import contenders, memory

    for index, case in enumerate(cases):
        yield {"started": index}
        try:
            step = contenders.make_step(settings, case)
            yield {"extra_bytes": [index, memory.extra_bytes(step)]}
        except Exception as error:
            yield {"failed": [index, _reason(error)]}


def _time(
    settings: Settings,
    cases: list[Case],
    job: dict[str, Any],
    emit: Callable[[dict[str, Any]], None],
) -> Iterator[dict[str, Any]]:
    from luna_tf.benchmark import causal, contenders, timing

    steps, tokens = {}, {}
    for index, case in enumerate(cases):
        yield {"started": index}
        try:
            if case.contender in TOKEN:
                step, size = causal.make_token_step(settings, case)
                tokens[str(index)] = causal.TOKENS
                yield {"cache_bytes": [index, size]}
            else:
                step = contenders.make_step(settings, case)
            # The first run compiles, the second one meets warm caches.
            step()
            step()
        except Exception as error:
            yield {"failed": [index, _reason(error)]}
        else:
            steps[str(index)] = step
    if not steps:
        return
    for measured in timing.rounds(
        steps,
        job["repeats"],
        job["seconds"],
        announce=lambda name: emit({"started": int(name)}),
    ):
        seconds = {i: s / tokens.get(i, 1) for i, s in measured.items()}
        yield {"round": seconds}


def _reason(error: Exception) -> str:
    """`memory` for a refusal of memory, else the error in one line."""
    text = f"{type(error).__name__}: {error}"
    is_memory = isinstance(error, MemoryError) or any(
        word in text.lower() for word in _MEMORY_WORDS
    )
    if is_memory:
        return "memory"
    # TensorFlow puts a traceback before the message.
    last = text.strip().splitlines()[-1].strip()
    return f"{type(error).__name__}: {last}"[:200]


if __name__ == "__main__":
    main()
