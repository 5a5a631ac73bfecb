"""Links, files and tests that the documentation and the settings files name exist."""

import re
from pathlib import Path

import pytest

from tests.builders import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "configs").glob("*.yaml")),
]
LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")
PATH = re.compile(r"(?<![\w/.~-])(?:pipeline|stages|models|tests|configs|docs)/[\w./-]*")
NEW_FILE = re.compile(r"^```python\n# (\S+)$", re.MULTILINE)
"""First line of a block of code that a reader puts into a new file."""
TEST_NAME = re.compile(r"`(test_\w+?)(\.py)?`")


def anchors_of(page):
    """Return the anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_files_and_headings(page):
    broken = []
    for link in LINK.findall(page.read_text()):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_folders_that_are_named_exist(page):
    text = page.read_text()
    new = set(NEW_FILE.findall(text))
    named = {Path(path.rstrip(".")) for path in PATH.findall(text)}
    assert [str(path) for path in sorted(named) if not exists(path) and str(path) not in new] == []


def exists(path):
    return (ROOT / path).exists() or (ROOT / "docs" / path).exists()


def test_tests_that_the_promises_name_exist():
    sources = {path.name: path.read_text() for path in (ROOT / "tests").rglob("*.py")}
    names = set(TEST_NAME.findall((ROOT / "README.md").read_text()))
    assert names
    functions = set(re.findall(r"^def (test_\w+)", "\n".join(sources.values()), re.MULTILINE))
    missing = [
        n for n, ending in names if (n + ending not in sources if ending else n not in functions)
    ]
    assert missing == []


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text()
    assert [p.name for p in (ROOT / "docs").glob("*.md") if f"({p.name}" not in index] == [
        "README.md"
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_name_tests_and_variables_that_exist(page):
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    for command in re.findall(r"^    (\w+=\S+ )?make \w+ PYTEST=\"(.*)\"$", page.read_text(), re.M):
        variable, options = command
        assert not variable or variable.partition("=")[0] in tests
        for word in re.findall(r"-k (\w+)", options):
            assert re.search(rf"^def test_\w*{word}", tests, re.MULTILINE), word
