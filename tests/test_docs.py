"""Every link of every page leads somewhere: to a file or a folder that is there, and to a heading of the page."""

import re
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
BUILT = {"build", "node_modules"}
PAGES = sorted(
    path.relative_to(ROOT)
    for path in ROOT.rglob("*.md")
    if not any(part in BUILT or part.startswith(".") for part in path.relative_to(ROOT).parts)
)
PARSER = MarkdownIt("commonmark").enable("table")


def links(page: Path) -> list[str]:
    """The targets of a page's links and pictures."""
    inline = [token for token in PARSER.parse((ROOT / page).read_text(encoding="utf-8")) if token.type == "inline"]
    children = [child for token in inline for child in token.children or ()]
    return [child.attrs.get("href") or child.attrs["src"] for child in children if child.type in ("link_open", "image")]


def anchors(page: Path) -> set[str]:
    """The anchors that a forge gives a page's headings: small letters, digits and hyphens."""
    tokens = PARSER.parse(page.read_text(encoding="utf-8"))
    heads = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    plain = (re.sub(r"\[(.*?)\]\(.*?\)", r"\1", head) for head in heads)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in plain}


def wrong(page: Path, target: str) -> str | None:
    """Why a link leads nowhere; None where it leads somewhere. Other servers are not asked."""
    parts = urlsplit(target)
    if parts.scheme in ("http", "https", "mailto"):
        return None
    place = (ROOT / page).parent / unquote(parts.path) if parts.path else ROOT / page
    if not place.exists():
        return f"there is no {target}"
    if parts.fragment and place.suffix == ".md" and parts.fragment not in anchors(place):
        return f"{target}: no heading of that name is there"
    return None


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links(page):
    found = [reason for target in links(page) if (reason := wrong(page, target))]
    assert not found


def test_a_wrong_link_is_found():
    page = Path("docs/style.md")
    assert wrong(page, "nowhere.md") == "there is no nowhere.md"
    assert wrong(page, "data.md#nothing") == "data.md#nothing: no heading of that name is there"
    assert wrong(page, "data.md") is None and wrong(page, "../README.md#two-commands") is None


def test_the_site_has_every_page():
    """What `make docs` builds begins with a list of pages, which has all of docs/."""
    listed = (ROOT / "docs/site/index.md").read_text(encoding="utf-8")
    there = {page.stem for page in PAGES if page.parent == Path("docs")}
    assert not [name for name in sorted(there) if f"../{name}\n" not in listed]
