"""com.microsoft operators: ONNX Runtime runs the original, onnx's own evaluator what it was raised to."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes import common

from edgeattn.exporters.raising.base import RaisingError
from edgeattn.exporters.raising.pipeline import FORM_KEY, raise_model
from edgeattn.exporters.sites import find_sites

Feeds = dict[str, NDArray[Any]]
KINDS = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32, "int64": TensorProto.INT64}
B, S, T, H, D = 2, 5, 7, 3, 4


def floats(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(sum(shape) + len(shape)).standard_normal(shape, dtype=np.float32)


def model(
    op: str, feeds: Feeds, inputs: list[str], outputs: int = 1, domain: str = "com.microsoft", **attributes: Any
) -> onnx.ModelProto:
    """A model of one operator; an input called '' is left out, one that is not fed is a constant of the model."""
    names = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op, inputs, names, name="it", domain=domain, **attributes)
    values = [helper.make_tensor_value_info(name, KINDS[str(array.dtype)], array.shape) for name, array in feeds.items()]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(helper.make_graph([node], "g", values, results), opset_imports=opsets, ir_version=10)


def raised(proto: onnx.ModelProto) -> ir.Model:
    result: ir.Model = ir.from_proto(proto)
    common.ShapeInferencePass(check_type=False, strict_mode=False)(result)
    raise_model(result)
    return result


def check(proto: onnx.ModelProto, feeds: Feeds, atol: float = 2e-6) -> ir.Model:
    """What it was raised to says the same, in standard operators alone."""
    result = raised(proto)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    got = ReferenceEvaluator(ir.to_proto(result)).run(None, feeds)
    for array, expected in zip(got, session.run(None, feeds), strict=True):
        np.testing.assert_allclose(array, expected, rtol=1e-5, atol=atol)
    assert {node.domain for node in result.graph} <= {"", "edgeattn"}
    return result


def rows(**more: NDArray[Any]) -> Feeds:
    """Queries, keys and values with their heads side by side, with scores of several units."""
    return {"q": 2 * floats(B, S, H * D), "k": floats(B, T, H * D), "v": floats(B, T, H * D), **more}


PADDED = np.array([[1, 1, 1, 1, 0, 1, 0], [1, 0, 1, 1, 1, 1, 1]], dtype=np.int32)
SEEN = (np.random.default_rng(3).random((B, S, T)) < 0.6).astype(np.int32)
SEEN[:, :, 0] = 1

MHA: dict[str, tuple[Feeds, list[str], dict[str, Any], str]] = {
    "plain": (rows(), ["q", "k", "v"], {}, "3 heads x 4"),
    "scale": (rows(), ["q", "k", "v"], {"scale": 0.3}, "3 heads x 4, scale 0.3"),
    "bias of the projection": (rows(b=floats(3 * H * D)), ["q", "k", "v", "b"], {}, "3 heads x 4"),
    "padding": (rows(m=PADDED), ["q", "k", "v", "", "m"], {}, "3 heads x 4, key_padding mask"),
    "dense mask": (rows(m=SEEN), ["q", "k", "v", "", "m"], {}, "3 heads x 4, dense mask"),
    "bias of the scores": (rows(a=floats(1, H, S, T)), ["q", "k", "v", "", "", "a"], {}, "3 heads x 4, bias"),
    "keys of four axes": (
        {"q": floats(B, S, H * D), "k": floats(B, H, T, D), "v": floats(B, H, T, D)},
        ["q", "k", "v"],
        {},
        "3 heads x 4",
    ),
}


@pytest.mark.parametrize("case", MHA)
def test_multi_head_attention(case: str) -> None:
    feeds, inputs, attributes, summary = MHA[case]
    (site,) = find_sites(check(model("MultiHeadAttention", feeds, inputs, num_heads=H, **attributes), feeds))
    assert site.spec.summary() == summary
    assert site.name == "it"
    assert site.node.metadata_props[FORM_KEY] == "com.microsoft MultiHeadAttention"


def test_causal_multi_head_attention() -> None:
    feeds = {"q": 2 * floats(B, S, H * D), "k": floats(B, S, H * D), "v": floats(B, S, H * D)}
    (site,) = find_sites(check(model("MultiHeadAttention", feeds, ["q", "k", "v"], num_heads=H, unidirectional=1), feeds))
    assert site.spec.summary() == "3 heads x 4, causal"


ATTENTION: dict[str, tuple[Feeds, list[str], dict[str, Any], str]] = {
    "plain": ({}, ["x", "w", "b"], {}, "3 heads x 4"),
    "causal": ({}, ["x", "w", "b"], {"unidirectional": 1}, "3 heads x 4, causal"),
    "padding": ({"m": PADDED[:, :S]}, ["x", "w", "b", "m"], {}, "3 heads x 4, key_padding mask"),
    "lengths": ({"m": np.array([5, 2], dtype=np.int32)}, ["x", "w", "b", "m"], {}, "3 heads x 4, key_padding mask"),
    "bias of the scores": ({"a": floats(1, H, S, S)}, ["x", "w", "b", "", "", "a"], {}, "3 heads x 4, bias"),
}


@pytest.mark.parametrize("case", ATTENTION)
def test_attention(case: str) -> None:
    more, inputs, attributes, summary = ATTENTION[case]
    feeds = {"x": floats(B, S, 6), "w": floats(6, 3 * H * D), "b": floats(3 * H * D), **more}
    (site,) = find_sites(check(model("Attention", feeds, inputs, num_heads=H, **attributes), feeds, atol=1e-5))
    assert site.spec.summary() == summary


@pytest.mark.parametrize(("window", "pattern"), [(-1, "causal"), (2, "window [1, 0]")])
def test_group_query_attention(window: int, pattern: str) -> None:
    feeds = {"q": 2 * floats(B, S, 4 * 8), "k": floats(B, S, 2 * 8), "v": floats(B, S, 2 * 8)}
    feeds |= {"last": np.array([S - 1, S - 1], dtype=np.int32), "total": np.array(S, dtype=np.int32)}
    inputs = ["q", "k", "v", "", "", "last", "total"]
    proto = model("GroupQueryAttention", feeds, inputs, num_heads=4, kv_num_heads=2, local_window_size=window)
    (site,) = find_sites(check(proto, feeds))
    assert site.spec.summary() == f"4q/2kv heads x 8, {pattern}, key_padding mask"


LAYERS: dict[str, tuple[str, Feeds, dict[str, Any]]] = {
    "skip": (
        "SkipLayerNormalization",
        {"x": floats(2, 3, 8), "s": floats(2, 3, 8) + 1, "g": floats(8), "b": floats(8) + 1, "o": floats(8) - 1},
        {"epsilon": 1e-3},
    ),
    "skip rms": (
        "SkipSimplifiedLayerNormalization",
        {"x": floats(2, 3, 8), "s": floats(2, 3, 8) + 1, "g": floats(8)},
        {"epsilon": 1e-3},
    ),
    "gelu": ("Gelu", {"x": 3 * floats(2, 3, 8)}, {}),
    "bias gelu": ("BiasGelu", {"x": floats(2, 3, 8), "b": 2 * floats(8)}, {}),
    "fast gelu": ("FastGelu", {"x": floats(2, 3, 8), "b": 2 * floats(8)}, {}),
    "quick gelu": ("QuickGelu", {"x": 2 * floats(2, 3, 8)}, {"alpha": 1.5}),
    "product": ("FusedMatMul", {"x": floats(2, 3, 8), "y": floats(2, 5, 8)}, {"transB": 1, "alpha": 0.5}),
    "product of a turned one": ("FusedMatMul", {"x": floats(2, 8, 3), "y": floats(2, 8, 5)}, {"transA": 1}),
}


@pytest.mark.parametrize("case", LAYERS)
def test_layers(case: str) -> None:
    op, feeds, attributes = LAYERS[case]
    check(model(op, feeds, list(feeds), **attributes), feeds)


def test_the_sum_of_a_skip_layer() -> None:
    """Its fourth output, which ONNX Runtime's optimizer uses as the residual."""
    feeds = {"x": floats(2, 3, 8), "s": floats(2, 3, 8) + 1, "g": floats(8)}
    proto = model("SkipLayerNormalization", feeds, list(feeds), outputs=4)
    proto.graph.node[0].output[1] = proto.graph.node[0].output[2] = ""
    for index in (2, 1):
        del proto.graph.output[index]
    check(proto, feeds)


def test_embeddings() -> None:
    feeds: Feeds = {
        "words": np.array([[3, 1, 4], [1, 5, 9]], dtype=np.int32),
        "kinds": np.array([[0, 1, 1], [1, 0, 1]], dtype=np.int32),
    }
    feeds |= {"word": floats(10, 8), "place": floats(6, 8), "kind": floats(2, 8), "g": floats(8), "b": floats(8) + 1}
    proto = model("EmbedLayerNormalization", feeds, list(feeds), outputs=2, epsilon=1e-3)
    del proto.graph.output[1]
    check(proto, feeds)


def test_a_cache_is_refused_by_name() -> None:
    feeds = rows(pk=floats(B, H, 2, D), pv=floats(B, H, 2, D))
    with pytest.raises(RaisingError, match=r"it has a key/value cache \(past_key\); decoder caches are not supported yet"):
        raised(model("MultiHeadAttention", feeds, ["q", "k", "v", "", "", "", "pk", "pv"], num_heads=H))


@pytest.mark.parametrize(
    ("op", "feeds", "inputs", "attributes", "reason"),
    [
        ("MultiHeadAttention", {"q": floats(B, S, H, 3, D)}, ["q"], {"num_heads": H}, "input 1 is missing"),
        (
            "GroupQueryAttention",
            {**rows(), "last": np.array([6, 6], dtype=np.int32), "total": np.array(7, dtype=np.int32)},
            ["q", "k", "v", "", "", "last", "total"],
            {"num_heads": H, "kv_num_heads": H, "do_rotary": 1},
            "it turns, normalizes or rescales its keys",
        ),
        (
            "MultiHeadAttention",
            rows(m=np.array([1, 2, 3], dtype=np.int32)),
            ["q", "k", "v", "", "m"],
            {"num_heads": H},
            "its mask 'm' has shape",
        ),
    ],
    ids=["packed", "rotary", "starts"],
)
def test_a_form_without_a_spec_says_so(
    op: str, feeds: Feeds, inputs: list[str], attributes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(RaisingError, match=reason):
        raised(model(op, feeds, inputs, **attributes))
