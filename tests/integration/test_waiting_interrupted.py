"""Ctrl-C, alarms, time limits and forks strike anywhere: whoever else waits goes on."""

import json
import os
import subprocess
import sys

import pytest

from pipeline import Outcome, Pipeline, Receipt, StillPending
from pipeline.telemetry import Step
from tests.integration.conftest import Aside
from tests.integration.scene import Scene, drain, eventually

ROUNDS = 200
SOON = 0.05
LONG = 20.0

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


@pytest.fixture
def pipeline(scene: Scene) -> Pipeline:
    scene.sql("CREATE TABLE t (id int PRIMARY KEY, n int)")
    return scene.pipeline()


def count(pipeline: Pipeline, key: int = 1) -> Receipt:
    return pipeline.write("t", {"id": key}, add={"n": 1})


def test_an_interrupted_wait_lets_another_one_look(scene: Scene, pipeline: Pipeline, aside: Aside) -> None:
    """Interrupted again and again in the middle of its looks, as by Ctrl-C or by a time limit of Celery."""

    class Interrupt(BaseException):
        pass

    interrupted = 0

    def interrupt(step: Step) -> None:
        nonlocal interrupted
        if step is Step.POLLED and interrupted < 3:
            interrupted += 1
            raise Interrupt

    with Pipeline(scene.config(), interrupt) as shared:
        receipts = [count(shared, number) for number in range(8)]
        waits = [aside(receipt.wait, LONG) for receipt in receipts]
        eventually(lambda: interrupted == 3, "three interrupts")
        drain(pipeline)
        ends = [wait.exception(LONG) for wait in waits]
    assert sorted(type(end).__name__ for end in ends) == ["Interrupt"] * 3 + ["NoneType"] * 5


def test_one_who_gives_up_leaves_the_others_waiting(pipeline: Pipeline, aside: Aside) -> None:
    receipts = [count(pipeline, number) for number in range(6)]
    short = [aside(receipt.wait, SOON) for receipt in receipts[::2]]
    waits = [aside(receipt.wait, LONG) for receipt in receipts[1::2]]
    assert [type(one.exception(LONG)) for one in short] == [StillPending] * 3
    drain(pipeline)
    assert [one.result(LONG) for one in waits] == [Outcome.APPLIED] * 3


def test_a_child_waits_for_itself(pipeline: Pipeline, aside: Aside) -> None:
    """It is forked while its parent looks, and has none of its threads."""
    receipt = count(pipeline)
    waits = [aside(receipt.wait, LONG) for _ in range(4)]
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, str(receipt.wait(timeout=LONG)).encode())
        finally:
            os._exit(0)
    os.close(write)
    drain(pipeline)
    with os.fdopen(read) as answer:
        assert answer.read() == "applied"
    os.waitpid(pid, 0)
    assert [one.result(LONG) for one in waits] == [Outcome.APPLIED] * 4
