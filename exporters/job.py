"""One export on its way to disk: every flavour written, run by its runtime, and recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir
import torch

import edgeattn
from edgeattn.bundle import MANIFEST, part_manifest, seal
from edgeattn.exporters.decoding_evidence import decoding_evidence
from edgeattn.exporters.flavours import FlavourWriter, Form
from edgeattn.exporters.gate import golden_cases
from edgeattn.exporters.passes.fixed_sizes import fix_sizes
from edgeattn.exporters.passes.unraised import unraised
from edgeattn.exporters.report import FlavourReport
from edgeattn.exporters.signature import Signature
from edgeattn.exporters.sites import find_sites
from edgeattn.exporters.sources.base import Source
from edgeattn.exporters.static_shapes import Bucket, add_smaller_cases
from edgeattn.golden import Golden, write_case
from edgeattn.manifest import (
    PAST,
    GoldenCase,
    Manifest,
    Probe,
)


@dataclass(frozen=True, slots=True)
class Job:
    """One model of an export on its way to disk; its weights are there already."""

    source: Source
    canonical: ir.Model
    buckets: list[Bucket]
    writer: FlavourWriter

    @property
    def signature(self) -> Signature:
        """What goes in and comes out."""
        return self.writer.signature

    def write(self) -> tuple[list[FlavourReport], Manifest]:
        """Write every file, run every gate, seal."""
        sites = find_sites(self.canonical)
        missed = unraised(self.canonical)
        pads = self._pads()
        text = self._text()
        rows: list[FlavourReport] = []
        probes: dict[str, Probe] = {}
        for bucket in self.buckets:
            rows += self.writer.write(replace(self._form(bucket), text=text), probes)
        order = list(dict.fromkeys(row.flavour.target for row in rows))
        rows.sort(key=lambda row: order.index(row.flavour.target))
        manifest = Manifest(
            edgeattn=edgeattn.__version__,
            source={"kind": self.source.kind, "name": self.source.name, "torch": torch.__version__},
            inputs=self.signature.inputs,
            outputs=self.signature.outputs,
            sites=tuple(site.record() for site in sites),
            unraised=tuple(missed),
            flavours=tuple(row.flavour for row in rows),
            golden=self._golden(),
            decoding=write_case(self.writer.work, text.name, text.sizes, text.inputs, text.outputs) if text else None,
            probes=tuple(probes.values()),
            files={},
            padding=self.source.padding,
            limits=self.signature.limits,
            tokenizer=self._tokenizer(),
            preprocessing=self.source.preprocessing,
            provenance=self.source.provenance,
            pads=pads,
            parts=tuple(self.source.parts),
        )
        for name, file in self.source.files.items():
            (self.writer.work / name).parent.mkdir(parents=True, exist_ok=True)
            (self.writer.work / name).write_bytes(file if isinstance(file, bytes) else file.read_bytes())
        return rows, seal(self.writer.work, manifest, part_manifest(self.writer.part) if self.writer.part else MANIFEST)

    def _form(self, bucket: Bucket) -> Form:
        """The model as captured, or a copy of it with literal sizes."""
        limits, sizes = self.signature.limits, self._named(bucket.sizes)
        model = fix_sizes(self.canonical, sizes) if sizes else self.canonical
        cores = {site.name: site.fixed_core(limits) if sizes else site.core(limits) for site in find_sites(model)}
        cases = bucket.padded(self.signature.inputs, self.signature.padding) if sizes else bucket.cases
        return Form(sizes, model, cores, cases)

    def _named(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Without those that the graph computes from others."""
        symbols = {dim for info in self.signature.inputs for dim in info.dims}
        return {name: size for name, size in sizes.items() if name in self.source.dimensions or name in symbols}

    def _pads(self) -> tuple[str, ...]:
        """The dimensions in which feeds may be padded up to fixed sizes; adds the cases that prove it."""
        if not any(bucket.sizes for bucket in self.buckets):
            return ()
        pads, reason = add_smaller_cases(self.source, self.buckets, self.signature.inputs, self.signature.outputs)
        if reason:
            self.writer.say(f"feeds must have exactly the sizes of a bucket: {reason}")
        return pads

    def _text(self) -> Golden | None:
        """Of a decoder with a cache, what PyTorch says without it; none for fixed sizes, in which no cache grows."""
        if self.source.whole_pass is None or any(bucket.sizes for bucket in self.buckets):
            return None
        self.writer.say(f"reading a text with {self.source.reference}, without a cache")
        return decoding_evidence(self.source.whole_pass, self.signature.limits.get(PAST))

    def _golden(self) -> tuple[GoldenCase, ...]:
        cases = [case for bucket in self.buckets for case in golden_cases(bucket.cases)]
        folder = f"{self.writer.part}/" if self.writer.part else ""
        return tuple(write_case(self.writer.work, folder + case.name, case.sizes, case.inputs, case.outputs) for case in cases)

    def _tokenizer(self) -> dict[str, Any]:
        """The tokenizer's settings; text is cut where the longest fixed size ends."""
        settings, padding = self.source.tokenizer, self.signature.padding
        longest = max((bucket.sizes.get(str(padding.dims[-1]), 0) for bucket in self.buckets), default=0) if padding else 0
        if not settings.get("max_length") or not longest:
            return settings
        return {**settings, "max_length": min(settings["max_length"], longest)}
