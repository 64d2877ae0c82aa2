"""`edgeattn generate`: text from a language model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeattn.bundle import open_bundle
from edgeattn.cli import options
from edgeattn.progress import progress
from edgeattn.runtimes import registry

if TYPE_CHECKING:
    from edgeattn.decoding.prompts import Prompt
    from edgeattn.decoding.session import DecoderSession
    from edgeattn.decoding.tokens import Tokens


@click.command("generate")
@click.argument("bundle")
@click.argument("prompt", required=False)
@click.option(
    "--audio", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.wav", help="A sound in place of PROMPT."
)
@click.option("--image", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="An image in place of PROMPT.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=128, show_default=True)
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0 takes the likeliest token every time.")
@click.option("--top-k", type=int, default=0, show_default=True, help="Draw among so many of the likeliest; 0: among all.")
@click.option("--top-p", type=float, default=1.0, show_default=True, help="Draw among the likeliest that hold this share.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same text.")
@click.option("--system", metavar="TEXT", help="System message, for models that chat.")
@click.option("--begin", metavar="TEXT", help="What answers begin with, for models with an encoder; default: the model's own.")
@click.option("--raw", is_flag=True, help="Continue PROMPT as it is, without the model's chat template.")
@click.option("-r", "--runtime", default="onnxruntime:cpu", show_default=True, metavar="RUNTIME[:DEVICE]")
@options.precision
@options.threads
@options.common
def command(
    bundle: str,
    prompt: str | None,
    audio: Path | None,
    image: Path | None,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    system: str | None,
    begin: str | None,
    raw: bool,
    runtime: str,
    precision: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Answer PROMPT, or continue it, with the language model or encoder-decoder in BUNDLE, exported with its cache. The text
    appears as it is made.

    \b
    Example:
      edgeattn generate out/smollm2 "Why is the sky blue?"
      edgeattn generate out/smollm2 "Once upon a time" --raw --temperature 0.8 --top-p 0.95 --seed 7
      edgeattn generate out/whisper --audio speech.wav

    Time to first token and tokens per second go to stderr. Ctrl-C ends the text early.
    """
    from edgeattn.decoding.prompts import Asked, load_session, prompt_of
    from edgeattn.decoding.sampling import Sampling
    from edgeattn.decoding.tokens import Tokens

    engine, device = registry.parse_target(runtime)
    sampling = Sampling(temperature, top_k, top_p)
    opened = open_bundle(bundle)
    tokens = Tokens(opened)
    asked = prompt_of(opened, tokens, Asked(prompt, audio, image, system, begin, raw))
    with progress() as say:
        say(f"loading {opened.path.name} on {engine.name}:{device}")
        session = load_session(opened, engine.name, device, threads, precision)
    clock, text = _Clock(), []
    with session:
        try:
            asked.encode(session)
            for piece in _pieces(session, asked, tokens, max_new_tokens=max_new_tokens, sampling=sampling, seed=seed):
                clock.tick()
                text.append(piece)
                if not as_json:
                    click.echo(piece, nl=False)
        except KeyboardInterrupt:
            pass
        effective = session.session.effective.summary()
    if as_json:
        options.print_json({"text": "".join(text), "prompt_tokens": asked.count, **clock.facts(), "effective": effective})
    else:
        click.echo()
        click.echo(f"{asked.count} tokens read, {clock.summary()}; {effective}", err=True)


def _pieces(session: DecoderSession, asked: Prompt, tokens: Tokens, **settings: Any) -> Iterator[str]:
    """The answer's text, token by token."""
    from edgeattn.decoding.generating import generate
    from edgeattn.decoding.tokens import Stream

    stream = Stream(tokens)
    rules: dict[str, Any] = {"stop": tokens.stop, "suppress": tokens.suppress, "suppress_first": tokens.suppress_first}
    for token in generate(session, asked.ids, asked.mask, **rules, **settings):
        yield stream.add(int(token[0]))


@dataclass(slots=True)
class _Clock:
    """When each token came."""

    started: float = field(default_factory=time.perf_counter)
    ticks: list[float] = field(default_factory=list)

    def tick(self) -> None:
        self.ticks.append(time.perf_counter())

    def facts(self) -> dict[str, float | int | None]:
        between = self.ticks[-1] - self.ticks[0] if len(self.ticks) > 1 else 0.0
        return {
            "tokens": len(self.ticks),
            "first_token_ms": 1e3 * (self.ticks[0] - self.started) if self.ticks else None,
            "tokens_per_second": (len(self.ticks) - 1) / between if between else None,
        }

    def summary(self) -> str:
        """How many came, and how fast."""
        facts = self.facts()
        rate = "" if facts["tokens_per_second"] is None else f", then {facts['tokens_per_second']:.1f} tokens/s"
        first = "no token" if facts["first_token_ms"] is None else f"first token after {facts['first_token_ms']:.0f} ms"
        return f"{facts['tokens']} made: {first}{rate}"
