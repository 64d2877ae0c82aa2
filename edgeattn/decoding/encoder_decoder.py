"""An encoder-decoder with its caches: what is to be answered is read once, then one token follows the other."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeattn.bundle import Bundle, opening
from edgeattn.decoding.session import DecoderSession, Ints, Read
from edgeattn.errors import FeedError, UsageError
from edgeattn.loading import BundlePath, load
from edgeattn.manifest import ENCODER, ENCODER_MASK, PAST, Manifest, past_names, present_names
from edgeattn.runtimes.base import Session

Array = NDArray[Any]

TOKENS, MASK = "decoder_input_ids", "attention_mask"


def load_encoder_decoder(
    bundle: BundlePath | Bundle,
    runtime: str = "onnxruntime",
    device: str = "cpu",
    threads: int | None = None,
    precision: str | None = None,
) -> EncoderDecoderSession:
    """Load an encoder-decoder that was exported with its caches. Arguments and errors as `edgeattn.load`.

    Raises:
        UsageError: the bundle has no encoder.
    """
    with nullcontext(bundle) if isinstance(bundle, Bundle) else opening(bundle) as opened, ExitStack() as stack:
        if ENCODER not in opened.parts:
            raise UsageError(
                f"{opened.path} has no encoder beside its model: export an encoder-decoder with --cache dynamic, and open a "
                "language model with load_decoder"
            )
        encoder, decoder = (
            stack.enter_context(load(each, runtime, device, threads, precision=precision))
            for each in (opened.parts[ENCODER], opened)
        )
        session = EncoderDecoderSession(encoder, decoder, opened.manifest)
        stack.pop_all()
        return session


def begin_tokens(manifest: Manifest) -> tuple[int, ...]:
    """The tokens that an answer begins with; none where the model does not say."""
    settings = manifest.preprocessing and manifest.preprocessing.decoder
    return (settings.start, *settings.forced) if settings else ()


class EncoderDecoderSession(DecoderSession):
    """B texts or sounds, each read once by the encoder, and the sequences that answer them.

    What the encoder read stays on the decoder's runtime as the keys and values of its cross attention, through `reset` as well,
    so that it can be answered again.
    """

    _cache_of = "decoder"

    def __init__(self, encoder: Session, session: Session, manifest: Manifest) -> None:
        super().__init__(session, manifest.limits.get(PAST))
        self.encoder = encoder
        self.begin = begin_tokens(manifest)
        """The tokens that every row begins with; none where the model does not say."""
        layers = len(self._pairs) // 2
        self._crossing = dict(zip(present_names(layers, ENCODER), past_names(layers, ENCODER), strict=True))
        self._encoded: dict[str, Array] = {}

    def encode(self, feeds: Mapping[str, Array]) -> None:
        """Read what the next tokens answer: the encoder's inputs by name, B rows each. Forgets all tokens.

        Raises:
            FeedError, RuntimeRunError: as `Session.run`.
        """
        outputs = self.encoder.run(feeds)
        self._encoded = {target: outputs[name] for name, target in self._crossing.items()}
        if any(info.name == ENCODER_MASK for info in self.session.inputs):
            self._encoded[ENCODER_MASK] = np.asarray(feeds[MASK])
        self.reset()

    def close(self) -> None:
        """Free both models, for every fork as well."""
        super().close()
        self.encoder.close()

    def _start(self, rows: int) -> dict[str, Array]:
        if not self._encoded:
            raise UsageError("tokens before encode: there is nothing to answer; call encode(feeds) first")
        read = len(next(iter(self._encoded.values())))
        if rows != read:
            raise FeedError(f"got {rows} rows of tokens, encode read {read}; give one row for each")
        return {**super()._start(rows), **self._encoded}

    def _feeds(self, new: Ints, read: Read, kept: Ints) -> dict[str, Array]:
        if not read.mask.all():
            raise FeedError("the decoder of an encoder-decoder takes no padding; give every row as many tokens")
        return {TOKENS: new}
