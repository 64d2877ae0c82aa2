"""Running: the right numbers at every size, in memory of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeattn.errors import UsageError
from edgeattn.parity import compare_arrays
from edgeattn.runtimes.base import Session

Load = Callable[..., Session]
Array = NDArray[Any]


def softmax_model(x: Array, constants: dict[str, Array]) -> Array:
    """In float64; the result as float32."""
    scores = x.astype(np.float64) @ constants["weight"] + constants["bias"]
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), dtype=np.float32)


def random(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize("model", ["softmax", "external"])
def test_sizes(load: Load, model: str, constants: dict[str, Array]) -> None:
    """One session, sizes up and down: 1, odd, a vector register's length and around it."""
    session = load(model)
    for batch, length in [(1, 1), (2, 7), (1, 63), (3, 64), (2, 65), (1, 1), (5, 3)]:
        x = random(batch, length, 8)
        result = session.run({"x": x})
        assert list(result) == ["y"]
        assert result["y"].dtype == np.float32
        comparison = compare_arrays("y", result["y"], softmax_model(x, constants), "activation")
        assert comparison.passed, (batch, length, comparison)


def test_integer_inputs(load: Load, constants: dict[str, Array]) -> None:
    ids, mask = np.array([[1, 9, 0], [4, 4, 2]]), np.array([[1, 1, 0], [1, 0, 1]])
    hidden = load("ids").run({"mask": mask, "ids": ids})["hidden"]
    np.testing.assert_array_equal(hidden, constants["table"][ids] * mask[..., None].astype(np.float32))


def test_outputs_by_name_and_in_order(load: Load) -> None:
    x = random(3, 8)
    result = load("outputs").run({"x": x})
    assert list(result) == ["twice", "best", "square"]
    np.testing.assert_array_equal(result["twice"], x + x)
    np.testing.assert_array_equal(result["best"], x.argmax(-1))
    np.testing.assert_allclose(result["square"], x * x, rtol=1e-6)
    assert [value.dtype for value in result.values()] == [np.float32, np.int64, np.float32]


def test_small_types(load: Load) -> None:
    feeds = {"flag": np.array([True, False]), "count": np.array([3, -4], np.int32), "half": random(2, 3).astype(np.float16)}
    result = load("dtypes").run(feeds)
    np.testing.assert_array_equal(result["inverse"], [False, True])
    np.testing.assert_array_equal(result["double"], [6, -8])
    np.testing.assert_array_equal(result["single"], feeds["half"].astype(np.float32))
    assert [result[name].dtype for name in ("inverse", "double", "single")] == [np.bool_, np.int32, np.float32]


def test_scalar_feed(load: Load) -> None:
    session, x = load("passthrough"), random(2, 8)
    for scale in (0.5, -3.0):
        result = session.run({"x": x, "scale": np.array(scale, np.float32)})
        np.testing.assert_array_equal(result["scaled"], np.maximum(x, 0) * np.float32(scale))


def test_results_outlive_the_next_run(load: Load, constants: dict[str, Array]) -> None:
    session = load("softmax")
    first, second = random(2, 5, 8), random(2, 5, 8) * 3
    kept = session.run({"x": first})["y"]
    before = kept.copy()
    session.run({"x": second})
    np.testing.assert_array_equal(kept, before)
    session.close()
    np.testing.assert_array_equal(kept, before)


def test_writing_into_results_changes_nothing_else(load: Load, constants: dict[str, Array]) -> None:
    """Neither the feed, nor a weight, nor another output lies in the memory of a result."""
    session, x = load("passthrough"), random(2, 8)
    feeds = {"x": x.copy(), "scale": np.array(2, np.float32)}
    for _ in range(2):
        result = session.run(feeds)
        np.testing.assert_array_equal(result["constant"], constants["bias"])
        for name, value in result.items():
            value.fill(np.nan)
            others = [other for key, other in result.items() if key > name]
            assert not any(np.shares_memory(value, other) for other in others)
        np.testing.assert_array_equal(feeds["x"], x)


def test_feeds_are_left_alone(load: Load) -> None:
    """A runtime that reads the caller's memory in place must not compute in it."""
    x, scale = random(4, 8), np.array(2, np.float32)
    before = x.copy()
    load("passthrough").run({"x": x, "scale": scale})
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("layout", ["transposed", "strided", "reversed", "read-only"])
def test_layouts(load: Load, constants: dict[str, Array], layout: str) -> None:
    x = {
        "transposed": random(8, 3, 2).transpose(2, 1, 0),
        "strided": random(2, 6, 16)[:, ::2, ::2],
        "reversed": random(2, 3, 8)[:, ::-1],
        "read-only": random(2, 3, 8),
    }[layout]
    if layout == "read-only":
        x.setflags(write=False)
    comparison = compare_arrays("y", load("softmax").run({"x": x})["y"], softmax_model(x, constants), "activation")
    assert comparison.passed, comparison


def test_infinity_reaches_the_model(load: Load) -> None:
    """-inf is how a mask is written; only NaN is refused."""
    x = np.full((1, 8), -np.inf, np.float32)
    assert np.isneginf(load("outputs").run({"x": x})["twice"]).all()


def test_without_spinning(load: Load, constants: dict[str, Array]) -> None:
    x = random(2, 5, 8)
    result = load("softmax", spin=False).run({"x": x})["y"]
    assert compare_arrays("y", result, softmax_model(x, constants), "activation").passed


def test_two_sessions_at_once(load: Load, constants: dict[str, Array]) -> None:
    one, two, x = load("softmax"), load("external"), random(1, 4, 8)
    np.testing.assert_array_equal(one.run({"x": x})["y"], two.run({"x": x})["y"])


def test_closed_session(load: Load) -> None:
    session = load("softmax")
    session.close()
    session.close()
    with pytest.raises(UsageError, match="the session is closed"):
        session.run({"x": random(1, 1, 8)})


def test_context_manager(load: Load) -> None:
    with load("softmax") as session:
        session.run({"x": random(1, 1, 8)})
    with pytest.raises(UsageError, match="the session is closed"):
        session.run({"x": random(1, 1, 8)})


def test_closed_after_an_error(load: Load) -> None:
    session = load("softmax")
    with pytest.raises(ZeroDivisionError), session:
        raise ZeroDivisionError
    with pytest.raises(UsageError, match="the session is closed"):
        session.run({"x": random(1, 1, 8)})
