"""Writes the README's table of settings: `make readme`. `test_readme` holds the two against each other."""

from __future__ import annotations

from pathlib import Path

from odysseus.settings import Settings

README = Path(__file__).parent.parent / "README.md"
_BEGIN, _END = "<!-- settings: made by `make readme` -->\n", "\n<!-- end of settings -->"


def with_settings(text: str) -> str:
    """Return the README's *text* with the table as the code has it."""
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}{Settings.markdown()}{_END}{after}"


if __name__ == "__main__":
    README.write_text(with_settings(README.read_text()))
