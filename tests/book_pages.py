"""Which pages the book has: its texts and its chapters."""

from __future__ import annotations

from project_files import ROOT

CHAPTERS = [f"notebooks/{file.stem}.html" for file in sorted((ROOT / "notebooks").glob("*.ipynb"))]
PAGES = [f"book/{file.stem}.html" for file in sorted((ROOT / "book").glob("*.md"))] + CHAPTERS
