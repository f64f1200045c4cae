"""Code blocks and commands of Markdown pages."""

from __future__ import annotations

import re
from pathlib import Path

PROGRAMS = ("ei", "python", "bash", "torchrun")


def blocks_of(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands_of(page: Path, language: str = "sh") -> list[str]:
    """The commands of the blocks of a language that call a program of the project, without comments."""
    lines = [line for block in blocks_of(page, language) for line in block.replace("\\\n", " ").splitlines()]
    commands = [re.split(r"\s{2,}#", line.strip())[0] for line in lines]
    return [command for command in commands if command.split(" ")[0] in PROGRAMS]
