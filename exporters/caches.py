"""The key/value cache of an attention in a graph: what it held before, what is new, and both together as an output.

    past_key_values.{i}.key (B, K, P, D)  +  new keys (B, K, S, D)  ->  present.{i}.key (B, K, P + S, D)

The plain `Concat` of a model's input with something new to a model's output says all of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

_LENGTH_AXES = (2, -2)


@dataclass(frozen=True, slots=True)
class Update:
    """One half of a cache, keys or values: `past` is an input of the graph, `present` an output."""

    past: ir.Value
    new: ir.Value
    present: ir.Value


@dataclass(frozen=True, slots=True)
class Cache:
    """The cache that one attention reads and nothing else does, so that it may be written where it is read."""

    keys: Update
    values: Update


def cache_of(k: ir.Value, v: ir.Value) -> Cache | None:
    """The cache behind the keys and values of an attention; None where there is none, or where something else reads it."""
    keys, values = _update(k), _update(v)
    return None if keys is None or values is None else Cache(keys, values)


def _update(present: ir.Value) -> Update | None:
    node = present.producer()
    if node is None or node.op_type != "Concat" or node.domain or node.attributes["axis"].as_int() not in _LENGTH_AXES:
        return None
    past, *new = node.inputs
    if past is None or len(new) != 1 or new[0] is None or not past.is_graph_input():
        return None
    alone = len(past.uses()) == 1 and len(present.uses()) == 1 and present.is_graph_output() and not past.is_graph_output()
    return Update(past, new[0], present) if alone else None
