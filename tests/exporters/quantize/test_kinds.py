"""What a flavour is called whose layers are of several kinds."""

from __future__ import annotations

import pytest

from edgeattn.exporters.quantize.kinds import OPENVINO, ORT, kind, label


@pytest.mark.parametrize(
    ("runtime", "layers", "expected"),
    [
        (ORT, {"int8-dynamic": 2, "int8-g128": 2, "int4": 3}, "int8"),
        (ORT, {"int4": 2, "int8": 2}, "int4"),
        (ORT, {"fp16": 3, "int8": 1, "kv-int8": 1}, "fp16"),
        (OPENVINO, {"int4": 1, "int8": 33, "fp16": 3}, "int8"),
        (OPENVINO, {"kv-fp16": 1}, "kv-fp16"),
    ],
)
def test_it_is_what_most_layers_are_stored_in(runtime: str, layers: dict[str, int], expected: str) -> None:
    for names in (layers, dict(reversed(layers.items()))):
        assert label(kind(runtime, name) for name, count in names.items() for _ in range(count)) == expected
