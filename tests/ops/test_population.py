"""Populations: their layout, the numbers they are drawn from, their files, and what is refused."""

import json
import math

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

import neurokernels as nk
from neurokernels.ops.evolution import storage
from neurokernels.ops.evolution.network import INPUTS, Network
from neurokernels.ops.evolution.philox import Stream, happens, normal

Population = nk.evolution.Population


def test_layout():
    """Blocks side by side: into each hidden layer from the one before and from itself, then into the outputs."""
    network = Network((3, 2), ("bias", "left"))
    assert network.units == (
        "wall left", "bias", "hidden 0.0", "hidden 0.1", "hidden 0.2", "hidden 1.0", "hidden 1.1", "forward", "left",
        "right",
    )  # fmt: skip
    assert [b.start for b in network.blocks] == [0, 15, 25]
    assert network.edges == 3 * (2 + 3) + 2 * (3 + 2) + 3 * 2 == 31
    matrices = network.matrices(torch.arange(62).reshape(2, 31))
    assert [tuple(m.shape) for m in matrices] == [(2, 3, 5), (2, 2, 5), (2, 3, 2)]
    assert matrices[1][1].tolist() == [[46, 47, 48, 49, 50], [51, 52, 53, 54, 55]]
    source, target = network.ends()
    assert source[:5].tolist() == [0, 1, 2, 3, 4]
    assert target[:6].tolist() == [2, 2, 2, 2, 2, 3]
    assert source[15:20].tolist() == [2, 3, 4, 5, 6]
    assert (source[25:].tolist(), target[25:].tolist()) == ([5, 6] * 3, [7, 7, 8, 8, 9, 9])
    assert network.fan_in().tolist() == [5] * 25 + [2] * 6
    assert Network((4,), recurrent=False).edges == 4 * len(INPUTS) + 12
    assert Network.parse(network.text()) == network
    assert Network(20) == Network()
    assert Network().edges == 620


def test_random():
    """An agent is its number and the seed; weights have the spread that is promised, and severed ones are zero."""
    many = Population.random(300, density=0.3, seed=4)
    few = Population.random(7, density=0.3, seed=4)
    assert torch.equal(few.weights, many.weights[:7])
    assert torch.equal(few.mask, many.mask[:7])
    assert not torch.equal(Population.random(7, seed=5).weights, Population.random(7, seed=4).weights)
    assert not many.weights[~many.mask].any()
    assert (many.weights[many.mask] == 0).double().mean() < 2e-3  # a normal number is zero once in 2,500 draws
    assert many.kept.mean().item() == pytest.approx(0.3, abs=0.01)
    assert torch.equal(many.edges, many.mask.sum(1))
    into, out = many.network.matrices(Population.random(300).weights)
    assert into.std().item() == pytest.approx(1 / math.sqrt(28), rel=0.02)
    assert out.std().item() == pytest.approx(1 / math.sqrt(20), rel=0.02)
    assert Population.random(50, gain=100).weights.abs().max() == 127 / 32
    assert Population.random(3, density=0).edges.tolist() == [0] * 3
    assert Population.random(3, density=1).edges.tolist() == [620] * 3


def test_normal_numbers():
    """Moments of the sum of twelve, whose excess kurtosis is -0.1; a sum of four words, which it is not, fails."""

    def check(drawn):
        assert drawn.mean().abs() < 0.005
        assert drawn.var().item() == pytest.approx(1, abs=0.01)
        assert drawn.pow(3).mean().abs() < 0.03
        assert drawn.pow(4).mean().item() == pytest.approx(2.9, abs=0.06)

    drawn = normal(1, torch.arange(1000), torch.arange(400)[:, None], 3, Stream.WEIGHT).double()
    check(drawn)
    assert torch.equal(drawn * 1024, (drawn * 1024).round())
    agents = drawn - drawn.mean(1, keepdim=True)  # neighbours are independent
    assert (agents[:, 1:] * agents[:, :-1]).mean().abs() < 0.01
    assert (drawn[1:] * drawn[:-1]).mean().abs() < 0.01
    with pytest.raises(AssertionError):
        check(torch.rand(400, 1000, 4, dtype=torch.float64).sub(0.5).sum(-1) * math.sqrt(3))


def test_events():
    for probability in (0.0, 0.01, 0.5, 1.0):
        met = happens(9, 500, 101, 2, Stream.SEVERANCE, probability)
        assert met.shape == (500, 101)
        assert met.double().mean().item() == pytest.approx(probability, abs=0.01)
    rare = happens(9, 500, 101, 2, Stream.SEVERANCE, 0.01)
    assert (happens(9, 500, 101, 2, Stream.SEVERANCE, 0.02) >= rare).all()  # the same draw
    for other in (happens(8, 500, 101, 2, Stream.SEVERANCE, 0.01), happens(9, 500, 101, 3, Stream.SEVERANCE, 0.01),
                  happens(9, 500, 101, 2, Stream.NOISE, 0.01)):  # fmt: skip
        assert (other & rare).sum() < 0.2 * rare.sum()


def test_parts():
    agents = Population.random(6, hidden=2, density=0.5)
    assert len(agents[2:5]) == 3
    assert torch.equal(agents[-1].weights, agents.weights[5:])
    assert torch.equal(agents[[4, 0]].mask, agents.mask[[4, 0]])
    with pytest.raises(ValueError, match="at least one agent"):
        agents[6:]


def test_silence():
    """A share of what exists falls silent, anew in each generation; nothing else changes, and nothing is severed."""
    agents = Population.random(200, density=0.5)
    heard = agents.silenced(0.25, seed=3)
    assert (heard.edges / agents.edges).mean().item() == pytest.approx(0.75, abs=0.01)
    assert (heard.mask <= agents.mask).all()
    assert torch.equal(heard.weights[heard.mask], agents.weights[heard.mask])
    later = Population(agents.weights, agents.mask, agents.network, generation=1).silenced(0.25, seed=3)
    assert not torch.equal(later.mask, heard.mask)
    assert agents.silenced(0.0) is agents
    assert not agents.silenced(1.0).mask.any()
    with pytest.raises(ValueError, match=r"probability must be in \[0, 1\], got -0.1"):
        agents.silenced(-0.1)


# Files ---------------------------------------------------------------------------------------------------------------


def saved(folder, **options):
    agents = Population.random(5, density=0.4, **{"hidden": (3, 2)} | options)
    agents = Population(agents.weights, agents.mask, agents.network, generation=17)
    agents.save(folder / "agents.safetensors")
    return agents, folder / "agents.safetensors"


def test_a_file_is_the_population(tmp_path):
    for options in ({}, {"hidden": 4, "recurrent": False, "sensors": ("front", "bias"), "activation": "relu"}):
        agents, path = saved(tmp_path, **options)
        loaded = Population.load(path)
        assert torch.equal(loaded.weights, agents.weights)
        assert torch.equal(loaded.mask, agents.mask)
        assert (loaded.network, loaded.generation) == (agents.network, 17)
    assert [p.name for p in tmp_path.iterdir()] == ["agents.safetensors"]


def test_the_format_is_safetensors(tmp_path):
    """Eight bytes of length, JSON padded to a multiple of eight, then the tensors: as that package writes and reads."""
    agents, path = saved(tmp_path)
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header, count = json.loads(content[8 : 8 + size]), agents.weights.numel()
    assert size % 8 == 0
    assert header["__metadata__"]["format"] == "neurokernels.population"
    assert header["__metadata__"]["version"] == "1"
    assert header["weights"] == {"dtype": "F32", "shape": list(agents.weights.shape), "data_offsets": [0, 4 * count]}
    assert header["mask"] == {"dtype": "U8", "shape": list(agents.mask.shape), "data_offsets": [4 * count, 5 * count]}
    assert content[8 + size :] == agents.weights.numpy().tobytes() + agents.mask.numpy().tobytes()


def test_the_safetensors_package_reads_it(tmp_path):
    agents, path = saved(tmp_path)
    found = load_file(path)
    assert found.keys() == {"weights", "mask"}
    assert torch.equal(found["weights"], agents.weights)
    assert torch.equal(found["mask"], agents.mask.to(torch.uint8))
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == storage.read(path)[1]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SafetensorError):
        load_file(path)


@pytest.mark.parametrize("agents", [1, 5])
def test_files_of_the_safetensors_package_are_read(tmp_path, agents):
    """It orders tensors as it likes, and pads its header as it likes."""
    ours, path = Population.random(5, hidden=3, density=0.6, seed=4)[:agents], tmp_path / "agents.safetensors"
    ours.save(path)
    _, metadata = storage.read(path)
    save_file({"mask": ours.mask.to(torch.uint8), "weights": ours.weights}, path, metadata)
    found = Population.load(path)
    assert torch.equal(found.weights, ours.weights)
    assert torch.equal(found.mask, ours.mask)
    assert (found.network, found.generation) == (ours.network, ours.generation)
    save_file({"mask": ours.mask, "weights": ours.weights}, path, metadata)
    with pytest.raises(ValueError, match="tensor 'mask' is of type 'BOOL', not F32 or U8"):
        Population.load(path)


def altered(path, change):
    """The file with its header changed by a function of its JSON."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = change(json.loads(content[8 : 8 + size]))
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])


def put(*keys):
    """Sets a field of a header."""
    *way, last, value = keys

    def change(header):
        inner = header
        for key in way:
            inner = inner[key]
        inner[last] = value
        return header

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put("__metadata__", "version", "2"), "expected neurokernels.population version 1, got .* version '2'"),
        (put("__metadata__", "format", "weights"), "expected neurokernels.population version 1, got 'weights'"),
        (put("__metadata__", {}), "got None version None"),
        (put("__metadata__", 3), "its metadata is no JSON object"),
        (put("__metadata__", "network", "{}"), "not a complete population: .*as the network has it"),
        (put("__metadata__", "network", "["), "not a complete population"),
        (put("__metadata__", "network", 5), "network must be JSON text, got int"),
        (put("__metadata__", "network", '{"hidden": [-1]}'), "hidden must be an integer >= 1"),
        (put("__metadata__", "network", '{"colour": 1}'), "not a complete population"),
        (put("__metadata__", "generation", "-3"), "generation must be an integer >= 0"),
        (put("weights", "shape", [2, 2]), "does not lie at bytes"),
        (put("weights", "shape", [5, -1]), r"the shape of tensor 'weights' is \[5, -1\]"),
        (put("weights", "dtype", "F64"), "tensor 'weights' is of type 'F64'"),
        (put("weights", "data_offsets", [0, 10**9]), "does not lie at bytes"),
        (put("mask", "data_offsets", [0, 155]), "does not lie at bytes"),
        (put("mask", "data_offsets", None), "tensor 'mask' has no two data_offsets"),
        (put("mask", 7), "tensor 'mask' has no two data_offsets"),
        (lambda header: {k: v for k, v in header.items() if k != "mask"}, "bytes belong to no tensor"),
        (lambda header: b"[1, 2]", "its header is no JSON object"),
        (lambda header: b"{" * 100000, "its header is not JSON"),
        (lambda header: b"\xff\xfe", "its header is not JSON"),
    ],
)
def test_files_that_are_refused(tmp_path, change, said):
    _, path = saved(tmp_path)
    altered(path, change)
    with pytest.raises(ValueError, match=said):
        Population.load(path)


def test_files_cut_short(tmp_path):
    _, path = saved(tmp_path)
    content = path.read_bytes()
    for end in (0, 5, 8, 20, len(content) - 1):
        path.write_bytes(content[:end])
        with pytest.raises(ValueError, match="this is not a complete safetensors file"):
            Population.load(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(ValueError, match="1 bytes belong to no tensor"):
        Population.load(path)
    path.write_bytes((2**62).to_bytes(8, "little") + content[8:])
    with pytest.raises(ValueError, match="cut short or too long"):
        Population.load(path)
    with pytest.raises(FileNotFoundError):
        Population.load(tmp_path / "nothing")


def test_a_file_with_a_mask_of_twos(tmp_path):
    agents, path = saved(tmp_path)
    metadata = storage.read(path)[1]
    storage.write(path, {"weights": agents.weights, "mask": 2 * agents.mask.to(torch.uint8)}, metadata)
    with pytest.raises(ValueError, match="mask must be 0 or 1"):
        Population.load(path)


# Errors --------------------------------------------------------------------------------------------------------------

WEIGHTS, MASK = torch.ones(3, 620), torch.ones(3, 620, dtype=torch.bool)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ((WEIGHTS[:0], MASK[:0]), ValueError, r"weights must be \[agents, 620\] with at least one agent.*\(0, 620\)"),
        ((WEIGHTS[:, 1:], MASK[:, 1:]), ValueError, r"weights must be \[agents, 620\].*\(3, 619\)"),
        ((WEIGHTS, MASK[:, 1:]), ValueError, r"mask must be \[agents, 620\].*\(3, 619\)"),
        ((WEIGHTS, MASK[:2]), ValueError, r"mask must be \(3, 620\) on cpu, got \(2, 620\)"),
        ((WEIGHTS[0], MASK[0]), ValueError, r"got shape \(620,\)"),
        ((WEIGHTS.double(), MASK), TypeError, "weights must be a tensor of torch.float32, got torch.float64"),
        ((WEIGHTS, MASK.int()), TypeError, "mask must be a tensor of torch.bool, got torch.int32"),
        ((WEIGHTS.tolist(), MASK), TypeError, "weights must be a tensor of torch.float32, got list"),
        ((WEIGHTS * math.nan, MASK), ValueError, "weights must be finite, got NaN or infinity"),
        ((WEIGHTS * math.inf, MASK), ValueError, "weights must be finite"),
        ((WEIGHTS, MASK, Network(), -1), ValueError, "generation must be an integer >= 0, got -1"),
    ],
)
def test_populations_that_are_refused(arguments, error, said):
    with pytest.raises(error, match=f"Population: .*{said}|Population: {said}"):
        Population(*arguments)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"agents": 0}, ValueError, "agents must be an integer >= 1, got 0"),
        ({"hidden": 0}, ValueError, "hidden must be an integer >= 1, got 0"),
        ({"hidden": ()}, ValueError, "hidden must be one size or several"),
        ({"hidden": 2**20}, ValueError, "hidden must be of at most 2147483647 connections, got"),
        ({"density": -0.1}, ValueError, r"density must be in \[0, 1\], got -0.1"),
        ({"density": math.nan}, ValueError, r"density must be in \[0, 1\], got nan"),
        ({"gain": "much"}, TypeError, "gain must be a number"),
        ({"seed": -1}, ValueError, "seed must be an integer >= 0"),
        ({"sensors": ("smell",)}, ValueError, "sensors must be one of left, front, .*, got 'smell'"),
        ({"sensors": ()}, ValueError, "sensors must be some of left"),
        ({"activation": "gelu"}, ValueError, "activation must be one of tanh, relu, sign, got 'gelu'"),
        ({"recurrent": 1}, TypeError, "recurrent must be True or False, got int"),
    ],
)
def test_bad_arguments(options, error, said):
    with pytest.raises(error, match=said):
        Population.random(**{"agents": 2} | options)
