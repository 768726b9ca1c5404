"""When rows are taken for new."""

import random

from pipeline.store.novelty import ROWS_FIRST, Novelty


def test_rows_are_looked_for_until_many_were_new_one_after_the_other() -> None:
    novelty = Novelty()
    assert not novelty.likely()
    novelty.learn(ROWS_FIRST - 1, all_new=True)
    assert not novelty.likely()
    novelty.learn(1, all_new=True)
    assert novelty.likely()


def test_one_batch_with_a_row_that_was_there_begins_it_anew() -> None:
    novelty = Novelty()
    novelty.learn(ROWS_FIRST - 1, all_new=True)
    novelty.learn(1, all_new=False)
    novelty.learn(ROWS_FIRST - 1, all_new=True)
    assert not novelty.likely()


def test_each_mistake_doubles_how_many_rows_must_have_been_new() -> None:
    novelty = Novelty()
    for mistakes in range(5):
        novelty.learn(ROWS_FIRST * 2**mistakes - 1, all_new=True)
        assert not novelty.likely()
        novelty.learn(1, all_new=True)
        assert novelty.likely()
        novelty.mistaken()


def test_a_load_that_is_wrong_now_and_then_makes_few_mistakes() -> None:
    chance, novelty, mistakes, size = random.Random(7), Novelty(), 0, 5000  # noqa: S311 - no secret
    for _ in range(10_000):
        all_new = chance.random() < (1 - 1 / 20_000) ** size
        if novelty.likely() and not all_new:
            novelty.mistaken()
            mistakes += 1
        if not novelty.likely():
            novelty.learn(size, all_new=all_new)
    assert mistakes <= 9
