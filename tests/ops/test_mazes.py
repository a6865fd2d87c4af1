"""Mazes: perfect ones, whatever the size, the same ones whatever their company; and what user-made ones must be."""

import pytest
import torch

import neurokernels as nk
from neurokernels.ops.evolution.philox import words

Mazes = nk.evolution.Mazes
PINNED = [11, 9, 7, 10, 12, 3, 12, 5, 6]
SIZES = [2, 3, 8, (1, 7), (7, 1), (2, 5), (12, 9)]


def openings(made):
    """Open sides of all cells, each passage counted twice."""
    return (~made.walls.long()[..., None] >> torch.arange(4) & 1).sum((1, 2, 3))


def check_perfect(made):
    """Every cell is reached, by as many passages as a tree has, and the border is closed."""
    cells = made.walls[0].numel()
    assert (made.distances() >= 0).all()
    assert (openings(made) == 2 * (cells - 1)).all()
    Mazes(made.walls, start=made.start, goal=made.goal)  # sound in the eyes of the checks


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_perfect(size):
    check_perfect(nk.evolution.mazes(20, size=size, seed=3))


def test_the_check_of_perfection_sees_loops_and_islands():
    made = nk.evolution.mazes(4, size=5)
    looped = made.walls.clone()
    for row, column in [(r, c) for r in range(4) for c in range(5)]:
        if looped[2, row, column] & 4:
            looped[2, row, column] -= 4
            looped[2, row + 1, column] -= 1
            break
    with pytest.raises(AssertionError):
        check_perfect(Mazes(looped))
    island = made.walls.clone()
    for row in range(5):  # a wall from top to bottom, the goal on the left
        island[:, row, 2] |= 2
        island[:, row, 3] |= 8
    with pytest.raises(AssertionError):
        check_perfect(
            Mazes(island, goal=4 * 5, start=made.distances(torch.full((4,), 20)).flatten(1).eq(1).int().argmax(1))
        )


def test_a_maze_is_its_number():
    """Not the number of mazes, and not the one before it."""
    many = nk.evolution.mazes(50, seed=7)
    for first, n in ((0, 1), (0, 10), (49, 1), (13, 20)):
        some = nk.evolution.mazes(n, seed=7, first=first)
        assert torch.equal(some.walls, many.walls[first : first + n])
    assert len({bytes(w.numpy()) for w in many.walls}) == 50
    assert len({bytes(nk.evolution.mazes(1, size=5, seed=s).walls.numpy()) for s in range(50)}) == 50
    assert not torch.equal(nk.evolution.mazes(5, seed=2**63 - 1).walls, nk.evolution.mazes(5, seed=2**32 - 1).walls)


def test_the_generator_is_pinned():
    """Mazes of published results stay what they are."""
    assert nk.evolution.mazes(1, size=3, seed=1).walls.flatten().tolist() == PINNED


def test_every_tree_of_four_cells_is_made():
    """Of 2 x 2 cells there are four; all of them, each about as often as depth-first search gives it."""
    counts = torch.zeros(4)
    for walls in nk.evolution.mazes(4000, size=2).walls:
        missing = [bool(walls[0, 0] & 2), bool(walls[0, 1] & 4), bool(walls[1, 1] & 8), bool(walls[1, 0] & 1)]
        assert sum(missing) == 1
        counts[missing.index(True)] += 1
    assert counts[0] + counts[3] > 3800  # the search leaves the first cell one way, and comes back by no other
    assert (counts[[0, 3]] > 1800).all()


def test_distances():
    corridor = nk.evolution.mazes(1, size=(1, 5))
    assert corridor.distances().flatten().tolist() == [0, 1, 2, 3, 4]
    assert corridor.distances(torch.tensor([3])).flatten().tolist() == [3, 2, 1, 0, 1]
    made = nk.evolution.mazes(30, size=9, goal="far")
    away = made.distances().flatten(1)
    assert torch.equal(away.gather(1, made.goal[:, None].long())[:, 0], away.amax(1))
    from_goal = made.distances(made.goal).flatten(1)
    assert torch.equal(from_goal.gather(1, made.start[:, None].long())[:, 0], away.amax(1))
    neighbours = nk.evolution.mazes(30, size=9).distances()
    assert ((neighbours[:, 1:] - neighbours[:, :-1]).abs() % 2 == 1).all()  # a tree on a grid has two colours


def test_parts():
    made = nk.evolution.mazes(6, size=4, facing=[0, 1, 2, 3, 0, 1])
    assert len(made[2:4]) == 2
    assert made[-1].facing.tolist() == [1]
    assert made[3].facing.tolist() == [3]
    assert made[[5, 0]].facing.tolist() == [1, 0]
    assert made.size == (4, 4)
    assert made.start.tolist() == [0] * 6
    assert made.goal.tolist() == [15] * 6


BOX = [[[9 + 4, 1 + 4 + 2]]]  # two cells side by side, open between them


@pytest.mark.parametrize(
    ("walls", "options", "error", "words_"),
    [
        ([[[15, 15]]], {}, ValueError, "walls must be such that a path leads from start to goal, got none in maze 0"),
        ([[[13, 15]]], {}, ValueError, "walls must be the same seen from both sides, got a wall east"),
        ([[[12, 6]]], {}, ValueError, "walls must be closed at the border, got a cell open to the north of maze 0"),
        (BOX, {"goal": 0}, ValueError, "goal must be another cell than start, got the same one in maze 0"),
        (BOX, {"goal": 2}, ValueError, r"goal must be in \[0, 1\], got 2 to 2"),
        (BOX, {"start": [0, 1]}, ValueError, r"start must be one integer or \[1\] of them, got shape \(2,\)"),
        (BOX, {"facing": 4}, ValueError, r"facing must be in \[0, 3\], got 4 to 4"),
        (BOX, {"facing": 1.0}, TypeError, "facing must be integers"),
        ([[[9, 19]]], {}, ValueError, r"walls must be in \[0, 15\], got 9 to 19"),
        ([[[-1, 7]]], {}, ValueError, r"walls must be in \[0, 15\], got -1 to 7"),
        ([[13, 7]], {}, ValueError, r"walls must be \[mazes, height, width\], none of them 0, got shape \(1, 2\)"),
        (torch.zeros(0, 2, 2, dtype=torch.uint8), {}, ValueError, "none of them 0"),
        ([[[15]]], {}, ValueError, "size must be 2 to 16777216 cells, got 1 x 1 = 1"),
        ([[[1.0, 2.0]]], {}, TypeError, "walls must be integers with one bit per side, got torch.float32"),
        ([[[True, False]]], {}, TypeError, "got torch.bool"),
    ],
)
def test_mazes_that_are_refused(walls, options, error, words_):
    with pytest.raises(error, match=words_):
        Mazes(torch.as_tensor(walls), **options)
    assert len(Mazes(BOX)) == 1


@pytest.mark.parametrize(
    ("options", "error", "words_"),
    [
        ({"n": 0}, ValueError, "n must be an integer >= 1, got 0"),
        ({"n": 2.0}, ValueError, "n must be an integer"),
        ({"size": 1}, ValueError, "size must be 2 to 16777216 cells, got 1 x 1 = 1"),
        ({"size": 0}, ValueError, "size must be an integer >= 1"),
        ({"size": 2**13}, ValueError, "2 to 16777216 cells"),
        ({"size": (2, 3, 4)}, ValueError, r"one number or \(height, width\)"),
        ({"seed": -1}, ValueError, "seed must be an integer >= 0"),
        ({"seed": 2**63}, ValueError, r"seed must be an integer below 2\*\*63"),
        ({"first": 2**32}, ValueError, r"last number is below 2\*\*32"),
        ({"goal": "near"}, ValueError, "goal must be one of corner, far, got 'near'"),
    ],
)
def test_bad_arguments(options, error, words_):
    with pytest.raises(error, match=f"mazes: .*{words_}"):
        nk.evolution.mazes(**{"n": 1} | options)


def test_philox_is_philox():
    """The known answers of the authors' Random123."""
    ones = 2**32 - 1
    for seed, counter, answer in (
        (0, (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (2**64 - 1, (ones,) * 4, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            0x299F31D0A4093822,
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ):
        found = words(seed, torch.tensor(counter[0]), torch.tensor(counter[1]), counter[2], counter[3])
        assert tuple(map(int, found)) == answer
