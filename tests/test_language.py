"""The language of the project: words that are not used, lengths, and first lines of docstrings.

Texts are comments, docstrings, messages and pages; names in code are not looked at here.
"""

import ast
import functools
import io
import re
import tokenize

import pytest

from tests.builders import ROOT

FOLDERS = ("pipeline", "stages", "models", "tests")
PYTHON = [ROOT / "run.py", *(p for name in FOLDERS for p in sorted((ROOT / name).rglob("*.py")))]
PAGES = [
    path
    for pattern in ("*.md", "docs/*.md", "configs/*.yaml", "models/cards/*.yaml", "tests/**/*.md")
    for path in sorted(ROOT.glob(pattern))
]
AVOIDED = {
    "told": "logged, reported, sent",
    "anew": "again",
    "heed": "handle, respect",
    "heeds": "handles, respects",
    "lest": "so that ... not",
    "astray": "not returned",
    "nobody": "no process, no client, no one reads",
    "somebody": "a viewer, a client, a person",
    "whoever": "the one that",
    "let go": "released, closed",
    "lets go": "releases, closes",
    "given up": "dropped, failed",
    "gives up": "drops, stops retrying",
    "give up": "drop, stop retrying",
    "is away": "is unreachable",
    "goes away": "is lost",
    "for ever": "for good, without an end",
    "is the matter": "is wrong",
    "to be had": "available",
}
"""Words and phrases that a reader of English as a second language stumbles over -> better ones."""
MAX_TEST_NAME = 70


def name_of(path):
    return path.relative_to(ROOT).as_posix()


@functools.cache
def texts_of(path):
    """(line, text) of each comment and string of a Python file, or each line of a page."""
    source = path.read_text()
    if path.suffix != ".py":
        return [(number, line) for number, line in enumerate(source.splitlines(), 1)]
    kinds = (tokenize.COMMENT, tokenize.STRING)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [(token.start[0], token.string) for token in tokens if token.type in kinds]


@pytest.mark.parametrize("path", [*PYTHON, *PAGES], ids=name_of)
def test_avoided_words_are_not_used(path):
    if name_of(path) == "tests/test_language.py":
        return
    found = [
        f"{name_of(path)}:{number}: {word!r}; write {AVOIDED[word]}"
        for number, text in texts_of(path)
        for word in AVOIDED
        if re.search(rf"\b{word}\b", " ".join(text.split()), re.IGNORECASE)
    ]
    assert found == []


@pytest.mark.parametrize(
    "path", [p for p in PYTHON if p.is_relative_to(ROOT / "tests")], ids=name_of
)
def test_names_of_tests_are_short_and_use_no_avoided_word(path):
    names = [
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert [name for name in names if len(name) > MAX_TEST_NAME] == []
    words = re.compile("|".join(rf"\b{word}\b" for word in AVOIDED))
    assert [name for name in names if words.search(name.replace("_", " "))] == []


@pytest.mark.parametrize(
    "path", [p for p in PYTHON if not p.is_relative_to(ROOT / "tests")], ids=name_of
)
def test_docstrings_are_sentences(path):
    wrong = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text is None:
                continue
            first = text.partition("\n\n")[0]
            if not (first[0].isupper() or first[0] in "`\"'") or first[-1] not in ".:?!`":
                wrong.append(f"{name_of(path)}: {' '.join(first.split())}")
            if re.match(r"(Of|Whose|How|What|Who|Why|When|Where) ", first):
                wrong.append(f"{name_of(path)}: a fragment: {' '.join(first.split())}")
    assert wrong == []


def test_the_check_finds_words_in_every_kind_of_text(tmp_path):
    path = tmp_path / "a.py"
    path.write_text('"""It is told."""\n# nobody\nx = f"gives {1} up, let go"\ntold = 1\n')
    assert [number for number, _ in texts_of(path)] == [1, 2, 3]
