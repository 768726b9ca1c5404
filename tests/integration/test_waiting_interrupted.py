"""Ctrl-C, alarms and time limits strike anywhere: whoever else waits goes on."""

import json
import subprocess
import sys

from tests.integration.scene import Scene

ROUNDS = 200

# The main thread waits and is interrupted at any instruction, while other threads wait; then everything is written.
SCRIPT = """
import json, random, signal, sys, threading
from concurrent.futures import ThreadPoolExecutor
from pipeline import Config, Outcome, Pipeline

class Alarm(BaseException):
    pass

def ring(*_):
    raise Alarm

signal.signal(signal.SIGALRM, ring)
rounds = int(sys.argv[2])
interrupted = 0
with Pipeline(Config(**json.loads(sys.argv[1]))) as pipeline, ThreadPoolExecutor(4) as threads:
    receipts = [pipeline.write("t", {"id": n}, add={"n": 1}) for n in range(4)]
    waits = [threads.submit(receipt.wait, 60) for receipt in receipts]
    for _ in range(rounds):
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.02))
            if random.random() < 0.2:
                pipeline.barrier(timeout=60)
            receipts[0].wait(60)
        except Alarm:
            interrupted += 1
    pipeline.flush_shard(0)
    assert [wait.result(60) for wait in waits] == [Outcome.APPLIED] * 4
    assert pipeline.wait_all(receipts, 60) == [Outcome.APPLIED] * 4
    pipeline.barrier(timeout=60)
print(interrupted)
"""


def test_an_interrupt_at_any_instruction_leaves_nobody_waiting_in_vain(scene: Scene) -> None:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int)")
    settings = json.dumps({"redis_url": scene.redis_url, "database_url": scene.database_url, "shards": 1})
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, settings, str(ROUNDS)], capture_output=True, text=True, timeout=110, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"{ROUNDS}\n"), done.stderr
