"""The nodes that all acceptance tests stand on: worker and beat as processes or containers."""

from celery import Celery
from pytest_celery import CeleryTestNode, CeleryTestSetup, CeleryTestWorker

from tests.acceptance.waiting import wait_until


def test_a_worker_answers_again_after_it_was_killed(worker: CeleryTestWorker, client: Celery) -> None:
    worker.kill()
    assert worker.container.status == "exited"
    worker.restart()
    replies = client.control.ping(timeout=10.0, limit=1)
    assert [list(reply.values()) for reply in replies or []] == [[{"ok": "pong"}]]


def test_beat_is_ticking(beat: CeleryTestNode) -> None:
    beat.assert_log_exists("Scheduler: Sending due task pipeline.flush")


def test_a_killed_beat_comes_back(beat: CeleryTestNode) -> None:
    beat.kill()
    beat.restart()
    assert beat.ready()


def test_the_setup_of_pytest_celery_works_on_our_nodes(celery_setup: CeleryTestSetup) -> None:
    # a ping waits one second for its answer, which a busy machine may miss
    wait_until(lambda: celery_setup.ready(control=True), "an answer of the whole setup")
