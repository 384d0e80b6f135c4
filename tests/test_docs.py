"""Every link of every page leads somewhere: to a file or a folder that is there, and to a heading of the page. Every command of ours on
a page exists, with the options that it has there."""

import argparse
import importlib
import re
import shlex
from functools import cache
from itertools import pairwise, takewhile
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt
from typer.main import get_command

from unilora_spec.console import COMMANDS, COMPLETION, GROUPS

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


# Commands

MODULES = {command.module for command in COMMANDS.values()}
EVERYWHERE = {"--help", "--debug"}
OF_OTHERS = {"--max-lora-rank", "--seeds", "--steps"}  # of vLLM, and of benchmarks.llm


@cache
def options(module: str) -> dict[str, set[str]]:
    """The options of each command of a program, by the command's name; "" is that of a program which is one command."""
    program = importlib.import_module(f"{module}.__main__")
    if hasattr(program, "app"):
        commands = get_command(program.app).commands.items()
        return {
            name: {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
            for name, command in commands
        }
    parser = program.parser()
    several = [each.choices for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    return {name: set(one._option_string_actions) for name, one in (several or [{"": parser}])[0].items()}


def code(page: Path) -> list[str]:
    """A page's blocks of code and its pieces of code within text."""
    tokens = PARSER.parse((ROOT / page).read_text(encoding="utf-8"))
    tokens = [each for token in tokens for each in (token, *(token.children or ()))]
    return [token.content for token in tokens if token.type in ("fence", "code_block", "code_inline")]


def calls(text: str) -> list[tuple[str, list[str]]]:
    """The calls of our programs in a piece of code: the module of each, and the words after it."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        if not re.search(r"\bunilora \S|-m \S", line):
            continue
        words = shlex.split(line, comments=True)
        for i, (first, second) in enumerate(pairwise(words)):
            rest = list(takewhile(lambda word: word not in ("|", "&&", ";"), words[i + 2 :]))
            if first == "-m" and second in MODULES:
                found.append((second, rest))
            elif first == "unilora" and second[0].islower():
                command = COMMANDS.get(second)
                found.append((command.module if command else second, rest if second in GROUPS else [second, *rest]))
    return found


def unknown(module: str, words: list[str]) -> list[str]:
    """What a call names that is not there: its command, or options of it."""
    if module not in MODULES:
        return [f"unilora {module}"]
    known = options(module)
    name = "" if "" in known else words[0] if words else "…"
    if not name.islower() and name:
        return []  # the page means any command
    if name not in known:
        return [f"{module} {name}"]
    given = {word.strip("[]").split("=")[0] for word in words}
    there = known[name] | EVERYWHERE
    return [f"{module} {name} {word}" for word in sorted(given) if re.match("--?[a-zA-Z]", word) and word not in there]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_commands_and_their_options(page):
    assert not [reason for text in code(page) for call in calls(text) for reason in unknown(*call)]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_options_that_stand_alone(page):
    """Each is that of some command of ours."""
    there = {option for module in MODULES for known in options(module).values() for option in known}
    alone = {re.split("[ =]", text)[0] for text in code(page) if text.startswith("--")}
    assert not alone - there - EVERYWHERE - OF_OTHERS - {*COMPLETION, "--version"}


def test_an_unknown_option_is_found():
    text = "unilora train --base x \\\n  --bass=y && python -m export lora --rank 4 -o z  # unilora fly\nunilora fly"
    found = [reason for call in calls(text) for reason in unknown(*call)]
    assert found == ["backends.torch train --bass", "export lora --rank", "unilora fly"]
    assert not [reason for call in calls("unilora plan --base x\nunilora --version") for reason in unknown(*call)]


def test_the_page_of_commands_has_every_command():
    """A row of its table has a program's module in its last cell, and all commands of the program in its first."""
    page = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    rows = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("| `")]
    named = {re.findall("`([^ `]+)", row[-1])[0]: re.findall(r"([^ `]+)`", row[0]) for row in rows}
    there = {module: sorted(name or "conformance" for name in options(module)) for module in MODULES}
    assert {module: sorted(names) for module, names in named.items()} == there
