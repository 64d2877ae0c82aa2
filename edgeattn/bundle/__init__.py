"""A bundle on disk: written atomically, opened only after its hashes, paths and sizes were checked.

A bundle is a folder, or the same folder zipped without compression as `NAME.edgeattn`:

    manifest.json  *.onnx  weights-<precision>.bin  golden/*.safetensors  probes/*.onnx  tokenizer/*

A model that runs beside the one that the bundle is about, such as the encoder of an encoder-decoder, is a part of it, with a
manifest of its own, `encoder.manifest.json`, over files of the same folder.
"""

from edgeattn.bundle.archive import pack
from edgeattn.bundle.folder import ALLOWED_DOMAINS, MANIFEST, Bundle, digest, part_manifest, weights_name, weights_of
from edgeattn.bundle.reading import open_bundle, opening
from edgeattn.bundle.writing import check_output, seal, writing

__all__ = [
    "ALLOWED_DOMAINS",
    "MANIFEST",
    "Bundle",
    "check_output",
    "digest",
    "open_bundle",
    "opening",
    "pack",
    "part_manifest",
    "seal",
    "weights_name",
    "weights_of",
    "writing",
]
