"""A signal handler that raises, in the middle of a command to Redis."""

import subprocess
import sys

from tests.acceptance.nodes import ROOT

# The alarm comes while C code copies 20 MB; behind them stands the number at which hiredis notices it.
SCRIPT = """
import signal
from pipeline import Config
from pipeline.buffer.redis import connect

class Alarm(Exception):
    pass

def ring(*_):
    raise Alarm

connection = connect(Config()).connection_pool.make_connection()
signal.signal(signal.SIGALRM, ring)
signal.setitimer(signal.ITIMER_REAL, 0.05)
try:
    while True:
        connection.pack_command("EVALSHA", *[b"x" * 100] * 200_000, 1)
except Alarm:
    print("alarmed")
"""


def test_a_signal_handler_that_raises_while_a_command_is_packed_does_not_crash_the_process() -> None:
    for _ in range(10):
        done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "alarmed\n"), done.stderr
