"""Random numbers that belong to (seed, stream, step, element) and to nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rlhf_lab.random import Streams, philox, uniform

N = 20_000
SEEDS = (0, 1, 2, 2**32 - 1)


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers_of_the_random123_distribution(
    counter: tuple[int, ...], key: tuple[int, ...], answer: tuple[int, ...]
) -> None:
    words = philox(*(np.uint64(x) for x in (*counter, *key)))
    assert tuple(int(word) for word in words) == answer


def test_a_uniform_is_never_zero_and_never_one() -> None:
    assert 0 < uniform(np.uint64(0)) == 2.0**-33
    assert uniform(np.uint64(2**32 - 1)) == 1 - 2.0**-33 < 1


def test_the_numbers_are_those_of_the_counter_and_key() -> None:
    # run 1 of seeds (5, 7): key (7, crc of the path), counter (element // 4, step, 0, 0), word element % 4
    streams = Streams((5, 7))["noise"]
    words = philox(*(np.uint64(x) for x in (2, 3, 0, 0)), *streams.keys[1])
    assert streams.uniforms(3, 3, 4)[1, 2].tolist() == [uniform(word) for word in words]


def test_a_step_beyond_32_bits_goes_into_the_next_word() -> None:
    streams = Streams((5,))
    words = philox(*(np.uint64(x) for x in (0, 1, 2, 0)), *streams.keys[0])
    assert streams.uniforms(2**33 + 1, 4)[0].tolist() == [uniform(word) for word in words]


def test_a_seed_draws_the_same_whatever_runs_beside_it() -> None:
    together, alone = Streams((3, 1, 4))["a"], Streams((1,))["a"]
    assert torch.equal(together.uniforms(7, 5, 3)[1], alone.uniforms(7, 5, 3)[0])
    assert torch.equal(together.normals(7, 5, 3)[1], alone.normals(7, 5, 3)[0])


def test_a_number_does_not_depend_on_how_many_are_drawn_after_it() -> None:
    streams = Streams((3,))
    assert torch.equal(streams.uniforms(7, 5), streams.uniforms(7, 13)[:, :5])


def test_a_number_does_not_depend_on_what_was_drawn_before() -> None:
    streams = Streams((3,))
    first = streams.uniforms(7, 5)
    streams.uniforms(8, 99)
    assert torch.equal(first, streams.uniforms(7, 5))


@pytest.mark.parametrize(
    "other",
    [Streams((1,))["a"], Streams((0,))["b"], Streams((0,)), Streams((0,))["a"]["a"], Streams((2**32 - 1,))["a"]],
)
def test_seeds_and_streams_differ(other: Streams) -> None:
    assert not bool((Streams((0,))["a"].uniforms(0, 100) == other.uniforms(0, 100)).any())


def test_steps_differ() -> None:
    streams = Streams((0,))
    assert not bool((streams.uniforms(0, 100) == streams.uniforms(1, 100)).any())


@pytest.mark.parametrize("seed", SEEDS)
def test_uniforms_have_the_mean_and_variance_of_the_uniform_distribution(seed: int) -> None:
    # standard errors: mean sqrt(1/12 / N); variance sqrt((1/80 - 1/144) / N), 1/80 the fourth central moment
    x = Streams((seed,))["moments"].uniforms(0, N)
    assert abs(float(x.mean()) - 1 / 2) < 4.5 * math.sqrt(1 / 12 / N)
    assert abs(float(x.var()) - 1 / 12) < 4.5 * math.sqrt((1 / 80 - 1 / 144) / N)


@pytest.mark.parametrize("seed", SEEDS)
def test_normals_have_mean_zero_and_variance_one(seed: int) -> None:
    # standard errors: mean sqrt(1 / N); variance sqrt(2 / N)
    x = Streams((seed,))["moments"].normals(0, N)
    assert abs(float(x.mean())) < 4.5 * math.sqrt(1 / N)
    assert abs(float(x.var()) - 1) < 4.5 * math.sqrt(2 / N)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Streams((0,)).uniforms(0, N), Streams((1,)).uniforms(0, N)),
        (Streams((0,)).uniforms(0, N), Streams((0,)).uniforms(1, N)),
        (Streams((0,))["a"].uniforms(0, N), Streams((0,))["b"].uniforms(0, N)),
        (Streams((0,)).uniforms(0, N)[:, :-1], Streams((0,)).uniforms(0, N)[:, 1:]),
    ],
    ids=["seeds", "steps", "streams", "elements"],
)
def test_neighbours_are_uncorrelated(one: torch.Tensor, other: torch.Tensor) -> None:
    # a correlation of independent numbers has the standard error 1 / sqrt(N)
    assert abs(float(torch.corrcoef(torch.cat([one, other]))[0, 1])) < 4.5 / math.sqrt(N)


def test_shapes_and_dtypes() -> None:
    streams = Streams((0, 1, 2))
    assert streams.uniforms(0).shape == (3,)
    assert streams.uniforms(0, 2, 0).shape == (3, 2, 0)
    assert streams.uniforms(0, 2).dtype is torch.float64
    assert streams.normals(0, 2, dtype=torch.float32).dtype is torch.float32


def test_float32_numbers_are_the_rounded_float64_numbers() -> None:
    streams = Streams((0,))
    assert torch.equal(streams.uniforms(0, 1000, dtype=torch.float32), streams.uniforms(0, 1000).float())


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_outside_32_bits_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=rf"seed {seed} is outside \[0, 2\*\*32\)"):
        Streams((0, seed))
