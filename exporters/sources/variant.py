"""An attention variant by its name: the small example of `edgeattn.models`, to try a form or a runtime with."""

from __future__ import annotations

from edgeattn.exporters.sources.base import Source
from edgeattn.exporters.sources.module import from_module
from edgeattn.models import example, variant_paper


def from_variant(name: str) -> Source:
    """The example of the variant `name`, with fixed weights."""
    module, inputs, dynamic = example(name)
    source = from_module(module, inputs, dynamic, name=name, kind="variant")
    source.provenance["paper"] = variant_paper(name)
    return source
