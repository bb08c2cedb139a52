"""Every command that stands in README and docs exists, with its flags, gin files and bindings."""

from __future__ import annotations

import functools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cql_atari import config

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
PROMISED = re.compile(r"python -m cql_atari\.[a-z_.]+|launchers/[a-z_]+\.(?:sh|sbatch)")


def commands(page: Path) -> list[str]:
    """Shell lines of the page's code blocks, continued ones joined, and code within sentences."""
    text = page.read_text()
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    lines = (
        "\n".join(block for language, block in blocks if language in ("", "bash", "sh"))
        .replace("\\\n", " ")
        .splitlines()
    )
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [line.strip() for line in [*lines, *inline] if PROMISED.search(line)]


CASES = [(page, line) for page in PAGES for line in commands(page)]


@functools.cache
def flags_of(module: str) -> str:
    """What the command's own --help says."""
    ended = subprocess.run(
        [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended.stdout + ended.stderr


@pytest.mark.parametrize(
    "page, line", CASES, ids=[f"{page.name}: {line[:60]}" for page, line in CASES]
)
def test_a_command_of_the_docs_is_one_of_the_code(page, line):
    words = [word.strip("[]") for word in shlex.split(line, comments=True)]
    for name in re.findall(r"launchers/[a-z_]+\.(?:sh|sbatch)", line):
        assert (ROOT / name).is_file()
    if "-m" not in words:
        return
    module = words[words.index("-m") + 1].rstrip(".,;")
    files, bindings = [], []
    for word in words[words.index("-m") + 2 :]:
        if not word.startswith("--"):
            continue
        flag, _, value = word[2:].partition("=")
        known = re.search(rf"--(\[no\])?{flag.removeprefix('no')}\b", flags_of(module))
        assert known, f"{module} --{flag}"
        if flag == "gin_files" and value.startswith("gin_configs/") and "*" not in value:
            files.append(value)
        if flag == "gin_bindings":
            bindings.append(value)
    for name in files:
        assert (ROOT / name).is_file() or not name.endswith(".gin"), name
    if files and all((ROOT / name).is_file() for name in files) and "$" not in line:
        config.load(files, bindings)


def test_pages_hold_commands():
    assert len(CASES) > 20
    assert any("tools.verify DIR" in line for _, line in CASES)  # it follows a block of Python


EVERY_PAGE = [*PAGES, *sorted(ROOT.glob("results/**/*.md")), *sorted(ROOT.glob("tests/**/*.md"))]


def anchors(page: Path) -> set[str]:
    """Of the page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere_and_those_of_the_site_stay_on_it(page):
    """The site is built from docs/ alone: `make docs` ends at a link that leaves it."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert ROOT / "docs" not in page.parents or ROOT / "docs" in target.parents, link
        assert not anchor or anchor in anchors(target), link
