"""Our reader and writer against the safetensors library, and against bytes that lie."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgeattn.errors import BundleError
from edgeattn.tensors import Array, read_tensors, write_tensors

DTYPES = ["float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(lambda name: name != "__metadata__")
arrays = st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=3)))
tensor_dicts = st.dictionaries(names, arrays, max_size=4)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file, overwritten by each example."""
    return tmp_path_factory.mktemp("tensors") / "t.safetensors"


def assert_same(got: dict[str, Array], expected: dict[str, Array]) -> None:
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name], array, strict=True)


@given(tensors=tensor_dicts)
def test_library_reads_what_we_write(path: Path, tensors: dict[str, Array]) -> None:
    write_tensors(path, tensors)
    assert_same(safetensors.numpy.load(path.read_bytes()), tensors)


@given(tensors=tensor_dicts)
def test_we_read_what_the_library_writes(path: Path, tensors: dict[str, Array]) -> None:
    path.write_bytes(safetensors.numpy.save(tensors, metadata={"made": "by the library"}))
    assert_same(read_tensors(path), tensors)


@given(tensors=tensor_dicts)
def test_we_read_what_we_write(path: Path, tensors: dict[str, Array]) -> None:
    write_tensors(path, tensors)
    assert_same(read_tensors(path), tensors)


def test_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    a, b = np.arange(3), np.eye(2)
    write_tensors(tmp_path / "1", {"a": a, "b": b})
    write_tensors(tmp_path / "2", {"b": b, "a": a})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


@pytest.mark.parametrize("array", [np.arange(6).reshape(2, 3).T, np.arange(10)[::3], np.arange(3, dtype=">i4")])
def test_strides_and_byte_order_are_straightened(path: Path, array: Array) -> None:
    write_tensors(path, {"x": array})
    np.testing.assert_array_equal(read_tensors(path)["x"], array)


@pytest.mark.parametrize("array", [np.zeros(2, complex), np.array(["a"]), np.array([None]), np.zeros(2, np.uint16)])
def test_dtype_without_a_name(path: Path, array: Array) -> None:
    with pytest.raises(BundleError, match=r"cannot store 'x': dtype .* is not one of float64, "):
        write_tensors(path, {"x": array})


def test_reserved_name(path: Path) -> None:
    with pytest.raises(BundleError, match="cannot store a tensor named '__metadata__'"):
        write_tensors(path, {"__metadata__": np.zeros(1)})


def write_raw(path: Path, header: Any, body: bytes = b"", size: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + body)


SOUND = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def test_sound_entry_is_read(path: Path) -> None:
    write_raw(path, {"x": SOUND}, bytes(8))
    assert read_tensors(path)["x"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "F8"}, "entry 'x' is malformed"),
        ({"dtype": ["F32"]}, "entry 'x' is malformed"),
        ({"shape": None}, "entry 'x' is malformed"),
        ({"shape": [3]}, r"does not fit bytes 0\.\.8 of 8"),
        ({"shape": [-2]}, "does not fit"),
        ({"shape": [2.0]}, "does not fit"),
        ({"shape": [True, 2]}, "does not fit"),
        ({"shape": "", "data_offsets": [0, 4]}, "does not fit"),
        ({"shape": {}, "data_offsets": [0, 4]}, "does not fit"),
        ({"shape": [1] * 16 + [2]}, "does not fit"),
        ({"shape": [0, 10**30], "data_offsets": [0, 0]}, "does not fit"),
        ({"shape": [1 << 40, 1 << 40]}, "does not fit"),
        ({"data_offsets": [0, 16]}, "does not fit"),
        ({"data_offsets": [8, 0]}, "does not fit"),
        ({"data_offsets": [-8, 0]}, "does not fit"),
        ({"data_offsets": [0]}, "entry 'x' is malformed"),
        ({"data_offsets": "08"}, "does not fit"),
        ({"dtype": "BOOL", "shape": [8]}, "a bool must be stored as 0 or 1"),
    ],
)
def test_entries_that_lie(path: Path, change: dict[str, Any], message: str) -> None:
    write_raw(path, {"x": SOUND | change}, b"\x02" * 8)
    with pytest.raises(BundleError, match=message):
        read_tensors(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"[]", "header must map names to tensors, got list"),
        (b"{", "header is not JSON"),
        (b"\xff\xfe\xfd", "header is not JSON"),
        (b"[" * 100_000, "header is not JSON"),
        (b"9" * 5000, "header is not JSON"),
        ({"x": None}, "entry 'x' is malformed"),
        ({"x": []}, "entry 'x' is malformed"),
    ],
)
def test_headers_that_are_none(path: Path, header: Any, message: str) -> None:
    write_raw(path, header)
    with pytest.raises(BundleError, match=message):
        read_tensors(path)


@pytest.mark.parametrize("size", [3, 1 << 20, (1 << 20) + 1, 1 << 40, (1 << 64) - 1])
def test_header_sizes_that_lie(path: Path, size: int) -> None:
    write_raw(path, b"{}", size=size)
    with pytest.raises(BundleError, match=f"header of {size} bytes does not fit a file of 10"):
        read_tensors(path)


def test_every_truncation(path: Path) -> None:
    write_tensors(path, {"a": np.arange(4), "b": np.eye(2, dtype=np.float32)})
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(BundleError):
            read_tensors(path)


@given(data=st.data(), tensors=tensor_dicts)
def test_damaged_bytes_give_a_bundle_error_or_arrays(path: Path, data: st.DataObject, tensors: dict[str, Array]) -> None:
    write_tensors(path, tensors)
    raw = bytearray(path.read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=4)):
        raw[position] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        read = read_tensors(path)
    except BundleError:
        return
    assert all(isinstance(array, np.ndarray) for array in read.values())


@given(raw=st.binary(max_size=64))
def test_any_bytes_give_a_bundle_error_or_arrays(path: Path, raw: bytes) -> None:
    path.write_bytes(raw)
    with contextlib.suppress(BundleError):
        assert isinstance(read_tensors(path), dict)
