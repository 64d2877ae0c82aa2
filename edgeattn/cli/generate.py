"""`edgeattn generate`: text from a language model."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import click

from edgeattn.bundle import open_bundle
from edgeattn.cli import options
from edgeattn.errors import UsageError
from edgeattn.progress import progress
from edgeattn.runtimes import registry


@click.command("generate")
@click.argument("bundle")
@click.argument("prompt")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=128, show_default=True)
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0 takes the likeliest token every time.")
@click.option("--top-k", type=int, default=0, show_default=True, help="Draw among so many of the likeliest; 0: among all.")
@click.option("--top-p", type=float, default=1.0, show_default=True, help="Draw among the likeliest that hold this share.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same text.")
@click.option("--system", metavar="TEXT", help="System message, for models that chat.")
@click.option("--raw", is_flag=True, help="Continue PROMPT as it is, without the model's chat template.")
@click.option("-r", "--runtime", default="onnxruntime:cpu", show_default=True, metavar="RUNTIME[:DEVICE]")
@options.threads
@options.common
def command(
    bundle: str,
    prompt: str,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    system: str | None,
    raw: bool,
    runtime: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Answer PROMPT, or continue it, with the language model in BUNDLE, exported with its cache. The text appears as it is made.

    \b
    Example:
      edgeattn generate out/smollm2 "Why is the sky blue?"
      edgeattn generate out/smollm2 "Once upon a time" --raw --temperature 0.8 --top-p 0.95 --seed 7

    Time to first token and tokens per second go to stderr. Ctrl-C ends the text early.
    """
    from edgeattn.decoding import load_decoder
    from edgeattn.decoding.generating import generate
    from edgeattn.decoding.sampling import Sampling
    from edgeattn.decoding.tokens import Stream, Tokens

    engine, device = registry.parse_target(runtime)
    sampling = Sampling(temperature, top_k, top_p)
    opened = open_bundle(bundle)
    tokens = Tokens(opened)
    chats = tokens.chats and not raw
    if system and not chats:
        why = "--raw leaves the chat template out" if raw else "the model has no chat template"
        raise UsageError(f"--system {system!r:.40} has no place to go: {why}; put its text in PROMPT")
    ids, mask = tokens.encode([tokens.chat(_messages(prompt, system)) if chats else prompt], templated=chats)
    with progress() as say:
        say(f"loading {opened.path.name} on {engine.name}:{device}")
        session = load_decoder(opened, engine.name, device, threads)
    clock, text, stream = _Clock(), [], Stream(tokens)
    with session:
        try:
            for token in generate(
                session, ids, mask, max_new_tokens=max_new_tokens, sampling=sampling, stop=tokens.stop, seed=seed
            ):
                clock.tick()
                text.append(stream.add(int(token[0])))
                if not as_json:
                    click.echo(text[-1], nl=False)
        except KeyboardInterrupt:
            pass
        effective = session.session.effective.summary()
    if as_json:
        options.print_json({"text": "".join(text), "prompt_tokens": ids.shape[1], **clock.facts(), "effective": effective})
        return
    click.echo()
    facts = clock.facts()
    rate = "" if facts["tokens_per_second"] is None else f", then {facts['tokens_per_second']:.1f} tokens/s"
    first = "no token" if facts["first_token_ms"] is None else f"first token after {facts['first_token_ms']:.0f} ms"
    click.echo(f"{ids.shape[1]} tokens read, {facts['tokens']} made: {first}{rate}; {effective}", err=True)


def _messages(prompt: str, system: str | None) -> list[dict[str, str]]:
    user = {"role": "user", "content": prompt}
    return [{"role": "system", "content": system}, user] if system else [user]


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
