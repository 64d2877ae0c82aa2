"""From a bundle, or a runtime's session, to a decoder's session of the kind that the model's memory asks for."""

from __future__ import annotations

from contextlib import nullcontext

from edgeattn.bundle import Bundle, opening
from edgeattn.decoding.recurrent import RecurrentSession
from edgeattn.decoding.session import DecoderSession
from edgeattn.errors import UsageError
from edgeattn.loading import BundlePath, load
from edgeattn.manifest import ENCODER, PAST, Manifest, state_layers
from edgeattn.runtimes.base import Session
from edgeattn.spec import SlidingWindow


def load_decoder(
    bundle: BundlePath | Bundle,
    runtime: str = "onnxruntime",
    device: str = "cpu",
    threads: int | None = None,
    precision: str | None = None,
) -> DecoderSession:
    """Load a bundle that was exported with a cache. Arguments and errors as `edgeattn.load`.

    Raises:
        UsageError: the model has no cache.
    """
    with nullcontext(bundle) if isinstance(bundle, Bundle) else opening(bundle) as opened:
        if ENCODER in opened.parts:
            raise UsageError(f"{opened.path} is an encoder-decoder; open it with load_encoder_decoder")
        session = load(opened, runtime, device, threads, precision=precision)
        try:
            return decoder_session(session, opened.manifest.limits.get(PAST), reach(opened.manifest))
        except UsageError:
            session.close()
            raise


def decoder_session(session: Session, capacity: int | None = None, window: int | None = None) -> DecoderSession:
    """Around `session`, with a key/value cache or with states. Arguments as `DecoderSession`'s.

    Raises:
        UsageError: the model has neither.
    """
    recurrent = state_layers(info.name for info in session.inputs) > 0
    return (RecurrentSession if recurrent else DecoderSession)(session, capacity, window)


def reach(manifest: Manifest) -> int | None:
    """How many positions in front of it a query of the model sees at most; None where a layer sees all of them."""
    patterns = [site.spec.pattern for site in manifest.sites]
    windows = [pattern.left for pattern in patterns if isinstance(pattern, SlidingWindow) and pattern.left is not None]
    return max(windows) if windows and len(windows) == len(patterns) else None
