"""A score_mod or mask_mod as torch.export leaves it: a graph over one score at (b, h, q, kv), and the tensors it reads."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

BATCH, HEAD, QUERY, KEY = range(4)
"""What a modifier is called with, in this order; a score_mod has the score before them."""
_AND = {
    torch.ops.aten.__and__.Tensor,
    torch.ops.aten.bitwise_and.Tensor,
    torch.ops.aten.logical_and.default,
    operator.and_,
}
_NEW = {getattr(torch.ops.aten, name).default for name in ("new_ones", "new_zeros", "new_full", "ones_like", "zeros_like")}
"""Operators that look at the type of their input alone."""


@dataclass(frozen=True, slots=True)
class Modifier:
    """`captured`: the program's nodes (or numbers) that stand behind the graph's further inputs."""

    graph: GraphModule
    captured: tuple[Any, ...]
    scored: bool

    @property
    def uses(self) -> frozenset[int]:
        """Which of BATCH, HEAD, QUERY and KEY the result depends on."""
        inputs, reached = self._inputs(), self._reached()
        return frozenset(i for i, node in enumerate(inputs[self.scored : self.scored + 4]) if node in reached)

    @property
    def reads(self) -> tuple[Any, ...]:
        """The captured values that the result depends on."""
        inputs, reached = self._inputs(), self._reached()
        pairs = zip(inputs[self.scored + 4 :], self.captured, strict=True)
        return tuple(value for node, value in pairs if node in reached)

    @property
    def integers(self) -> set[int]:
        """The integer constants of the graph, near which its result may change."""
        return {
            abs(arg)
            for node in self.graph.graph.nodes
            for arg in node.args
            if isinstance(arg, int) and not isinstance(arg, bool)
        }

    def over(
        self, places: Sequence[torch.Tensor], captured: Callable[[Any], Any], score: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The result at every combination of `places` (four tensors of one axis): (B, H, S, T), 1 where it does not depend.

        `captured` gives a value for what the program holds; `score` is one number.
        """
        uses = self.uses
        given = [place if axis in uses else place.new_zeros(1) for axis, place in enumerate(places)]
        more = [captured(value) for value in self.captured]
        call: Any = self.graph
        before, after = (None,) * self.scored, (None,) * len(more)
        for axis in reversed(range(4)):
            mapped = [0 if i == axis else None for i in range(4)]
            call = torch.vmap(call, in_dims=(*before, *mapped, *after))
        result: torch.Tensor = call(*([score] if self.scored else []), *given, *more)
        return result

    def conjuncts(self) -> list[Modifier]:
        """Modifiers of which this one is the conjunction."""
        (result,) = self.graph.graph.find_nodes(op="output")
        open_, parts = [result.args[0]], []
        while open_:
            node = open_.pop(0)
            if node.op == "call_function" and node.target in _AND:
                open_ += [arg for arg in node.args if isinstance(arg, Node)]
            else:
                parts.append(self._cut(node))
        return parts

    def within(self, *axes: int) -> list[Modifier]:
        """What is computed on the way from exactly these of BATCH, HEAD, QUERY and KEY: the last step of each way."""
        parts = {
            node: self._cut(node) for node in self.graph.graph.nodes if node.op == "call_function" and node in self._reached()
        }
        fitting = {node: part for node, part in parts.items() if part.uses == set(axes)}
        return [part for node, part in fitting.items() if not any(user in fitting for user in node.users)]

    def _cut(self, end: Node) -> Modifier:
        """The same modifier with another result."""
        graph = Graph()
        copies: dict[Node, Node] = {}
        for node in self.graph.graph.nodes:
            if node.op != "output":
                copies[node] = graph.node_copy(node, lambda old: copies[old])
        graph.output(copies[end])
        graph.eliminate_dead_code()
        return Modifier(GraphModule(self.graph, graph), self.captured, self.scored)

    def _inputs(self) -> list[Node]:
        return list(self.graph.graph.find_nodes(op="placeholder"))

    def _reached(self) -> set[Node]:
        """Nodes whose value reaches the result."""
        (result,) = self.graph.graph.find_nodes(op="output")
        queue, reached = list(result.all_input_nodes), set()
        while queue:
            node = queue.pop()
            if node not in reached:
                reached.add(node)
                queue += [] if node.target in _NEW else node.all_input_nodes
        return reached
