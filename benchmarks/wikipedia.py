"""English Wikipedia as plain text, from gensim's test data: articles in MediaWiki's markup, which is taken off."""

from __future__ import annotations

import bz2
import html
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

_FILE = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"

_INNERMOST = re.compile(r"\{\{[^{}]*\}\}|\{\|(?:(?!\{\|).)*?\|\}", re.DOTALL)
"""A template or a table with none inside; taken away until none is left."""
_FILES = re.compile(r"\[\[(?:File|Image|Category|[a-z-]{2,12}):(?:[^\[\]]|\[\[[^\[\]]*\]\])*\]\]", re.IGNORECASE)
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"<!--.*?-->", re.DOTALL), ""),
    (re.compile(r"<ref[^>]*/>|<(ref|math|gallery|timeline|table|code|source)\b[^>]*>.*?</\1>", re.DOTALL | re.IGNORECASE), ""),
    (re.compile(r"<[^>]+>"), ""),
    (_FILES, ""),
    (re.compile(r"\[\[(?:[^|\[\]]*\|)?([^\[\]]*)\]\]"), r"\1"),
    (re.compile(r"\[(?:https?|ftp)://\S+\s+([^\]]*)\]"), r"\1"),
    (re.compile(r"\[(?:https?|ftp)://[^\]]*\]"), ""),
    (re.compile(r"'{2,}"), ""),
    (re.compile(r"__[A-Z]+__|[ \t]*\([\s,;]*\)"), ""),
)
_END = re.compile(
    r"^==\s*(?:See also|References|Notes|Footnotes|Further reading|External links|Bibliography)\s*==", re.MULTILINE
)
_LINE = re.compile(r"^(?:=+\s*(.*?)\s*=+|[*#:;]+\s*(.*)|(.*))$")


def articles() -> Iterator[str]:
    """The plain text of every article, in the file's order. Exits where gensim is missing; it is not imported."""
    spec = find_spec("gensim")
    if spec is None or spec.origin is None:
        raise SystemExit("the text comes with gensim; fix: pip install --no-deps -r requirements-demo.txt")
    with bz2.open(Path(spec.origin).parent / _FILE) as file:
        for _, element in ElementTree.iterparse(file):
            if element.tag.endswith("}page"):
                found = {child.tag.rpartition("}")[2]: child.text or "" for child in element.iter()}
                if found["ns"] == "0" and "redirect" not in found:
                    yield plain(found["text"])
                element.clear()


def plain(markup: str) -> str:
    """What a reader would read: no tables, templates, notes, pictures or lists of references; one paragraph a line."""
    text = html.unescape(markup)
    if end := _END.search(text):
        text = text[: end.start()]
    for pattern, kept in _RULES[:3]:
        text = pattern.sub(kept, text)
    while (shorter := _INNERMOST.sub("", text)) != text:
        text = shorter
    for pattern, kept in _RULES[3:]:
        text = pattern.sub(kept, text)
    lines = (_LINE.sub(lambda match: match[1] or match[2] or match[3] or "", line).strip() for line in text.splitlines())
    return "\n".join(re.sub(r"[ \t]+", " ", html.unescape(line)) for line in lines if line)
