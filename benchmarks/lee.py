"""Does the exported model agree with people as the PyTorch model does? Pearson correlation on the Lee corpus.

50 news documents, 1,225 human similarity judgements (Lee, Pincombe and Welsh 2005), read from gensim's test data;
gensim itself is not imported. Run: `python benchmarks/lee.py out/minilm`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray
from tasks import lee, pearson

import edgeattn
from edgeattn.bundle import Bundle, open_bundle
from edgeattn.runtimes import registry
from edgeattn.text import encode

Array = NDArray[Any]


def cut_at(bundle: Bundle, length: int) -> Bundle:
    """The bundle with another tokenizer limit."""
    return replace(bundle, manifest=replace(bundle.manifest, tokenizer={**bundle.manifest.tokenizer, "max_length": length}))


def embed_with_torch(feeds: dict[str, Array]) -> Array:
    """By the PyTorch model with its own attention."""
    import torch

    from edgeattn.exporters.sources.zoo import from_zoo

    with torch.inference_mode():
        outputs = from_zoo("minilm").module(**{name: torch.from_numpy(array) for name, array in feeds.items()})
    embeddings: Array = outputs["sentence_embedding"].numpy()
    return embeddings


def main() -> None:
    """Print the correlation of PyTorch and of every runtime that is here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument(
        "--max-length", type=int, default=128, help="tokens kept of a document (default: the tokenizer's own 128)"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    bundle = cut_at(open_bundle(arguments.bundle), arguments.max_length)
    documents, judged = lee()
    feeds = encode(bundle, documents)
    found = {"pytorch": pearson(embed_with_torch(feeds), judged)}
    for name in ("onnxruntime", "openvino"):
        if registry.get(name).check().ok:
            with edgeattn.load(bundle, runtime=name) as session:
                found[name] = pearson(session.run(feeds)["sentence_embedding"], judged)
    if arguments.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:12} {value:.4f}  ({value - found['pytorch']:+.1e} from PyTorch)")


if __name__ == "__main__":
    main()
