"""Generation on the device: a decoder's session with its cache, sampling, text in and out. numpy and the runtime only."""

from edgeattn.decoding.encoder_decoder import EncoderDecoderSession, load_encoder_decoder
from edgeattn.decoding.opening import load_decoder
from edgeattn.decoding.session import DecoderSession

__all__ = ["DecoderSession", "EncoderDecoderSession", "load_decoder", "load_encoder_decoder"]
