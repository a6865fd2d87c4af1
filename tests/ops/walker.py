"""One agent in one maze, in Python and NumPy: what rollouts are held to. It shares no code with the library."""

import math

import numpy as np

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))
INPUTS = {"left": 1, "front": 1, "right": 1, "bias": 1, "goal": 1, "motor": 3}

#: Wrong rules, each of which a test of the right ones must reject.
MUTANTS = (
    "reward at once", "stays at the goal", "moves at the goal", "last of equal outputs", "reads the new layer",
    "truncates", "turns the other way", "forgets its command", "walks through walls", "keeps its heading",
)  # fmt: skip


def knots():
    """The integer tanh between whose values one interpolates."""
    return [round(64 * 127 * math.tanh(512 * i / 4064)) for i in range(33)]


def integer_tanh(total, mutant=None):
    size = min(abs(total), 16383)
    i, rest = divmod(size, 512)
    low, high = knots()[i : i + 2]
    value = (low * 512 + (high - low) * rest + (0 if mutant == "truncates" else 2**14)) >> 15
    return value if total >= 0 else -value


def layers(row, network):
    """The matrix of each layer, and of the outputs."""
    before, found = sum(INPUTS[s] for s in network.sensors), []
    for size in (*network.hidden, 3):
        sources = before + (size if network.recurrent and len(found) < len(network.hidden) else 0)
        matrix, row = row[: size * sources].reshape(size, sources), row[size * sources :]
        found.append(matrix)
        before = size
    assert not len(row)
    return found


def senses(network, walls, heading, there, motor):
    seen = [bool(walls >> (heading + turn) % 4 & 1) for turn in (0, 1, 2, 3)]
    all_ = {
        "left": [seen[3]], "front": [seen[0]], "right": [seen[1]], "bias": [True], "goal": [there],
        "motor": [motor == c for c in (0, 1, 2)],
    }  # fmt: skip
    return np.array([value for name in INPUTS if name in network.sensors for value in all_[name]], dtype=np.int64)


def walk(population, agent, mazes, maze, steps, *, forget=False, mutant=None):
    """Goals, position, heading, last command and hidden units of exact mode, in integers."""
    network, (height, width) = population.network, mazes.size
    row = np.where(population.mask[agent], np.round(32.0 * population.weights[agent].double().numpy()), 0).astype(
        np.int64
    )
    matrices = layers(row, network)
    walls = mazes.walls[maze].flatten().tolist()
    start, goal, facing = (int(t[maze]) for t in (mazes.start, mazes.goal, mazes.facing))
    position, heading, motor, goals = start, facing, 3, 0
    units = [np.zeros(size, dtype=np.int64) for size in network.hidden]
    for _ in range(steps):
        there = position == goal
        below = 127 * senses(network, walls[position], heading, there, motor)
        for k, matrix in enumerate(matrices[:-1]):
            own = units[k] if network.recurrent else np.zeros(0, dtype=np.int64)
            total = matrix @ np.concatenate([below, own])
            if mutant == "reads the new layer" and network.recurrent:
                total = matrix @ np.concatenate([below, squashed(total, network, mutant)])
            units[k] = below = squashed(total, network, mutant)
        outputs = (matrices[-1] @ below).tolist()
        command = outputs.index(max(outputs))
        if mutant == "last of equal outputs":
            command = 2 - outputs[::-1].index(max(outputs))
        if mutant == "turns the other way":
            command = (0, 2, 1)[command]
        free = mutant == "walks through walls" or not walls[position] >> heading & 1
        row_, column = position // width + MOVES[heading][0], position % width + MOVES[heading][1]
        ahead = row_ * width + column if 0 <= row_ < height and 0 <= column < width else position
        moved = ahead if command == 0 and free else position
        turned = (heading + (0, -1, 1)[command]) % 4
        goals += (moved == goal and not there) if mutant == "reward at once" else there
        returns = there and mutant != "stays at the goal"
        motor = 3 if (forget and there) or mutant == "forgets its command" else command
        if returns and mutant != "moves at the goal":
            position, heading = start, heading if mutant == "keeps its heading" else facing
        else:
            position, heading = moved, turned
        if forget and there:
            units = [np.zeros_like(u) for u in units]
    return goals, position, heading, motor, np.concatenate(units).tolist()


def squashed(total, network, mutant):
    if network.activation == "sign":
        return 127 * np.sign(total)
    return np.array([integer_tanh(int(t), mutant) for t in total], dtype=np.int64)
