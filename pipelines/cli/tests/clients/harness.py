"""What the client scripts share: tests by decorator, unique names, bounded waits."""

import itertools
import os
import sys
import time
import traceback

BOOTSTRAP = os.environ["BOOTSTRAP"]
_tests = []
_names = itertools.count()


def test(function):
    _tests.append(function)
    return function


def name(what):
    """A topic, group or transactional id that no other test uses."""
    return f"{what}-{os.getpid()}-{next(_names)}"


def until(condition, what, seconds=30.0):
    """Waits for a condition, with a bound; the condition itself does the polling."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
    raise AssertionError(f"not within {seconds} s: {what}")


def equal(got, expected, what=""):
    assert got == expected, f"{what}: got {got!r}, expected {expected!r}"


def main(client):
    failed = 0
    wanted = sys.argv[1:]
    for function in _tests:
        if wanted and function.__name__ not in wanted:
            continue
        began = time.monotonic()
        try:
            function()
            print(f"ok      {client} {function.__name__}  {time.monotonic() - began:.1f} s", flush=True)
        except Exception:  # each test reports by itself; the next one still runs
            failed += 1
            print(f"FAILED  {client} {function.__name__}", flush=True)
            traceback.print_exc()
    sys.exit(1 if failed else 0)
