"""`edgeattn generate` and the tokens behind it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from edgeattn.bundle import open_bundle
from edgeattn.cli import cli
from edgeattn.decoding import load_decoder
from edgeattn.decoding.generating import generate
from edgeattn.decoding.sampling import Sampling
from edgeattn.decoding.tokens import Stream, Tokens
from edgeattn.errors import UsageError
from tests.edgeattn.decoding.small import RUNTIMES, TEXT, Small


@pytest.fixture
def tokens(small: Small) -> Tokens:
    return Tokens(open_bundle(small.bundle))


def test_prompts_are_padded_in_front(tokens: Tokens) -> None:
    ids, mask = tokens.encode(["The cat", "The cat sat on the mat"])
    assert ids.shape == mask.shape
    count = int(mask[0].sum())
    assert mask[0].tolist() == [0] * (ids.shape[1] - count) + [1] * count
    assert tokens.decode(ids[0, -count:].tolist()) == "The cat"
    assert mask[1].all()
    with pytest.raises(UsageError, match="the prompt '' has no tokens"):
        tokens.encode([""])


def test_a_chat_is_written_as_its_template_says(tokens: Tokens) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert tokens.chat(messages) == "<end><system>Be brief.<user>Hi<assistant>"
    assert tokens.stop == (0,)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% for", "TemplateSyntaxError"),
        ("{{ raise_exception('no system message') }}", "no system message"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
    ],
)
def test_a_template_that_cannot_be_filled_in(small: Small, template: str, message: str) -> None:
    opened = open_bundle(small.bundle)
    opened.manifest.tokenizer["chat_template"] = template
    with pytest.raises(UsageError, match=f"the model's chat template cannot be filled in: .*{message}"):
        Tokens(opened).chat([{"role": "user", "content": "Hi"}])


def test_a_stream_is_the_text_and_holds_back_half_a_character(tokens: Tokens) -> None:
    ids, _ = tokens.encode(TEXT[1:2])
    stream = Stream(tokens)
    pieces = [stream.add(int(token)) for token in ids[0]]
    assert "".join(pieces) == TEXT[1]
    assert not any("\ufffd" in piece for piece in pieces)
    assert "" in pieces  # of the characters of several tokens


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_command_says_what_transformers_says(small: Small, tokens: Tokens, runtime: str) -> None:
    arguments = ["generate", str(small.bundle), "The cat", "--raw", "-r", runtime, "--max-new-tokens", "12", "--json"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    ids, _ = tokens.encode(["The cat"])
    expected = small.greedy(torch.from_numpy(ids), 12)
    if 0 in expected:
        expected = expected[: expected.index(0) + 1]
    stream = Stream(tokens)
    assert data["text"] == "".join(stream.add(token) for token in expected)
    assert (data["tokens"], data["prompt_tokens"]) == (len(expected), ids.shape[1])
    assert data["effective"].startswith(runtime)


def test_the_command_speaks_through_the_chat_template(small: Small, tokens: Tokens) -> None:
    data = json.loads(CliRunner().invoke(cli, ["generate", str(small.bundle), "Hi", "--system", "Be brief.", "--json"]).stdout)
    ids, _ = tokens.encode(["<end><system>Be brief.<user>Hi<assistant>"], templated=True)
    assert data["prompt_tokens"] == ids.shape[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--temperature", "-1"], "temperature must be 0"),
        (["-r", "nothing:cpu"], "unknown runtime 'nothing'"),
        (["--raw", "--system", "Be brief."], "--system 'Be brief.' has no place to go: --raw leaves the chat template out"),
        (["--max-new-tokens", "0"], "0 is not in the range x>=1"),
    ],
)
def test_wrong_options(small: Small, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(cli, ["generate", str(small.bundle), "Hi", *arguments])
    assert result.exit_code == 2
    assert message in result.output


def test_a_single_run_takes_no_text(small: Small) -> None:
    result = CliRunner().invoke(cli, ["run", str(small.bundle), "--text", "Hi"])
    assert result.exit_code == 2
    assert (
        "takes what it has read (a key/value cache, or states) beside the text; give text to `edgeattn generate`"
        in result.output
    )


def test_a_bundle_without_a_tokenizer(tiny_bundle: Path) -> None:
    result = CliRunner().invoke(cli, ["generate", str(tiny_bundle), "Hi"])
    assert result.exit_code == 2
    assert "has no tokenizer" in result.output


def test_rows_end_on_their_own_and_the_seed_decides(small: Small) -> None:
    with load_decoder(small.bundle) as session:
        prompts = np.array([[5, 9, 4], [7, 7, 2]])
        drawn = []
        for seed in (1, 1, 2):
            session.reset()
            steps = generate(session, prompts, max_new_tokens=20, sampling=Sampling(1.5), seed=seed)
            drawn.append(np.stack(list(steps)))
        np.testing.assert_array_equal(drawn[0], drawn[1])
        assert not np.array_equal(drawn[0], drawn[2])
        stop = int(drawn[0][3, 0])
        session.reset()
        ended = np.stack(list(generate(session, prompts, max_new_tokens=20, sampling=Sampling(1.5), seed=1, stop=[stop])))
        first = drawn[0][:, 0].tolist().index(stop)
        assert (ended[first:, 0] == stop).all()
        np.testing.assert_array_equal(ended[: first + 1], drawn[0][: first + 1])


def test_no_tokens_asked_for(small: Small) -> None:
    with load_decoder(small.bundle) as session, pytest.raises(UsageError, match="max_new_tokens must be 1 or more, got 0"):
        next(generate(session, [[1]], max_new_tokens=0))
