"""manifest.json comes back as it was written; anything else is refused with the name of the field."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeattn.errors import BundleError
from edgeattn.manifest import FORMAT, Manifest, dumps, loads

Path = tuple[str | int, ...]


def edited(manifest: Manifest, path: Path, value: Any) -> str:
    """The manifest's text with the value at `path` replaced."""
    data = json.loads(dumps(manifest))
    place = data
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return json.dumps(data)


def places(data: Any, path: Path = ()) -> Iterator[Path]:
    """The path of every value in `data`."""
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield (*path, key)
        yield from places(value, (*path, key))


def test_round_trip(manifest: Manifest) -> None:
    assert loads(dumps(manifest)) == manifest
    assert dumps(loads(dumps(manifest))) == dumps(manifest)


def test_flavour_by_target(manifest: Manifest) -> None:
    assert manifest.flavour("onnxruntime:cpu") is manifest.flavours[0]
    assert manifest.flavour("openvino:cpu") is None


def test_whole_numbers_are_floats_too(manifest: Manifest) -> None:
    read = loads(edited(manifest, ("flavours", 0, "parity", "max_abs_error", "y"), 0))
    assert read.flavours[0].parity is not None
    assert isinstance(read.flavours[0].parity.max_abs_error["y"], float)


def test_optional_fields_may_be_missing(manifest: Manifest) -> None:
    data = json.loads(dumps(manifest))
    for name in ("padding", "limits", "tokenizer", "provenance"):
        del data[name]
    assert loads(json.dumps(data)) == replace(manifest, padding=None, limits={}, tokenizer={}, provenance={})


@pytest.mark.parametrize("text", ["", "{", "nonsense", "[" * 100_000, "9" * 5000, "\x00", '{"format": 1,}'])
def test_not_json(text: str) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json is not JSON"):
        loads(text)


@pytest.mark.parametrize("version", [FORMAT + 1, 0, -1, "1", None, [1]])
def test_other_format_versions(manifest: Manifest, version: Any) -> None:
    with pytest.raises(BundleError, match=f"has format .*, this edgeattn reads format {FORMAT}; export the model again"):
        loads(edited(manifest, ("format",), version))


@pytest.mark.parametrize("version", [True, 1.0])
def test_format_versions_that_only_equal_one(manifest: Manifest, version: Any) -> None:
    with pytest.raises(BundleError, match=r"manifest\.format: expected"):
        loads(edited(manifest, ("format",), version))


@pytest.mark.parametrize("text", ["[]", "1", "null", '"x"', "{}"])
def test_json_that_is_no_manifest(text: str) -> None:
    with pytest.raises(BundleError, match="has format None"):
        loads(text)


@pytest.mark.parametrize("name", [f.name for f in fields(Manifest) if f.name in ("edgeattn", "inputs", "sites", "files")])
def test_missing_fields(manifest: Manifest, name: str) -> None:
    data = json.loads(dumps(manifest))
    del data[name]
    with pytest.raises(BundleError, match=f"manifest: missing field '{name}'"):
        loads(json.dumps(data))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("extra",), 1, "manifest: unknown field 'extra'"),
        (("inputs", 0, "extra"), 1, r"manifest\.inputs\[0\]: unknown field 'extra'"),
        (("inputs", 0), {"name": "x"}, r"manifest\.inputs\[0\]: missing field 'dtype'"),
        (("edgeattn",), 1, r"manifest\.edgeattn: expected .*str.*, got 1"),
        (("source",), [], r"manifest\.source: expected dict.*, got \[\]"),
        (("source", "kind"), None, r"manifest\.source\.kind: expected .*str"),
        (("inputs",), {}, r"manifest\.inputs: expected tuple"),
        (("inputs", 0), "x", r"manifest\.inputs\[0\]: expected an object, got 'x'"),
        (("inputs", 0, "dims", 1), None, r"manifest\.inputs\[0\]\.dims\[1\]: expected"),
        (("inputs", 0, "dims", 1), True, r"manifest\.inputs\[0\]\.dims\[1\]: expected"),
        (("inputs", 0, "dims", 1), 1.5, r"manifest\.inputs\[0\]\.dims\[1\]: expected"),
        (("outputs", 0, "tolerance"), 1, r"manifest\.outputs\[0\]\.tolerance: expected"),
        (("sites", 0, "spec", "kv_heads"), 3, r"manifest\.sites\[0\]\.spec: q_heads \(4\) must be a multiple"),
        (("sites", 0, "spec"), None, r"manifest\.sites\[0\]\.spec: expected an attention spec"),
        (("sites", 0, "spec", "pattern", "type"), ["full"], r"manifest\.sites\[0\]\.spec: expected a pattern"),
        (("unraised", 0), 1, r"manifest\.unraised\[0\]: expected"),
        (("flavours", 0, "domains", ""), "23", r"manifest\.flavours\[0\]\.domains\.: expected .*int"),
        (("flavours", 0, "domains", ""), True, r"manifest\.flavours\[0\]\.domains\.: expected .*int"),
        (("flavours", 0, "parity"), 1, r"manifest\.flavours\[0\]\.parity: expected an object"),
        (("flavours", 0, "parity", "passed"), 1, r"manifest\.flavours\[0\]\.parity\.passed: expected .*bool"),
        (("flavours", 0, "parity", "sqnr_db", "y"), "1", r"parity\.sqnr_db\.y: expected .*float"),
        (("flavours", 0, "parity", "sqnr_db", "y"), True, r"parity\.sqnr_db\.y: expected .*float"),
        (("flavours", 0, "parity", "sqnr_db", "y"), 10**400, r"parity\.sqnr_db\.y: expected .*float"),
        (("golden", 0, "sizes", "batch"), 1.0, r"manifest\.golden\[0\]\.sizes\.batch: expected .*int"),
        (("probes", 0, "spec", "mask"), "x", r"manifest\.probes\[0\]\.spec: mask must be one of"),
        (("files", "model.onnx"), "0" * 64, r"manifest\.files\.model\.onnx: expected an object"),
        (("files", "model.onnx", "size"), "1", r"manifest\.files\.model\.onnx\.size: expected .*int"),
        (("padding",), 1, r"manifest\.padding: got 1"),
        (("limits", "length"), None, r"manifest\.limits\.length: expected .*int"),
        (("tokenizer",), [], r"manifest\.tokenizer: expected dict"),
    ],
)
def test_malformed_fields_are_named(manifest: Manifest, path: Path, value: Any, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        loads(edited(manifest, path, value))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(data=st.data(), value=json_values)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_anywhere_is_a_manifest_or_a_bundle_error(manifest: Manifest, data: st.DataObject, value: Any) -> None:
    path = data.draw(st.sampled_from(list(places(json.loads(dumps(manifest))))))
    try:
        read = loads(edited(copy.deepcopy(manifest), path, value))
    except BundleError:
        return
    assert isinstance(read, Manifest)
