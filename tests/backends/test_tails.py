"""Ends of prompts, against looking through all blocks."""

from __future__ import annotations

import random

from tts_engine.backends.tails import Tails


def test_the_block_with_the_most_in_common_is_found() -> None:
    tails = Tails()
    tails.add(1, "a", [5, 6, 7, 8])
    tails.add(2, "a", [5, 6, 9])
    tails.add(3, "b", [5, 6, 7, 8])
    assert tails.find("a", [5, 6, 7]) == (1, 3)
    assert tails.find("a", [5, 6, 9, 9, 9]) == (2, 3)
    assert tails.find("b", [5, 6, 9]) == (3, 2)
    assert tails.find("a", [6, 5])[1] == tails.find("c", [5])[1] == tails.find("a", [])[1] == 0


def test_a_block_that_is_used_again_holds_only_what_is_new() -> None:
    tails = Tails()
    tails.add(1, "a", [5, 6])
    tails.add(1, "b", [7])
    assert tails.find("a", [5, 6])[1] == 0
    assert tails.find("b", [7, 8]) == (1, 1)
    tails.drop(1)
    tails.drop(1)
    assert tails.find("b", [7])[1] == len(tails) == 0


def test_the_oldest_blocks_are_forgotten() -> None:
    tails = Tails(most=2)
    for block in range(3):
        tails.add(block, "a", [block])
    assert [tails.find("a", [block])[1] for block in range(3)] == [0, 1, 1]
    tails.clear()
    assert len(tails) == tails.find("a", [1])[1] == 0


def alike(one: list[int], other: list[int]) -> int:
    """First tokens in common."""
    return max(n for n in range(min(len(one), len(other)) + 1) if one[:n] == other[:n])


def test_random_blocks_against_all_of_them() -> None:
    chance = random.Random(0)
    tails, held = Tails(most=40), dict[int, tuple[int, list[int]]]()

    def text() -> list[int]:
        return [chance.randrange(3) for _ in range(chance.randrange(7))]

    longest = 0
    for _ in range(5000):
        block, parent = chance.randrange(40), chance.randrange(3)
        if chance.random() < 0.6:
            held[block] = parent, text()
            tails.add(block, *held[block])
        else:
            held.pop(block, None)
            tails.drop(block)
        wanted = text()
        found, count = tails.find(parent, wanted)
        common = {b: alike(tokens, wanted) for b, (p, tokens) in held.items() if p == parent}
        assert count == max(common.values(), default=0)
        assert not count or common[found] == count
        longest = max(longest, count)
    assert longest == 6
