"""The book: chapters are executed, set up in a staging folder, and built into pages.

`execute` runs the notebooks, each in a process of its own, and keeps what they printed; `build` stages them with the
other pages and makes HTML. Nothing here needs torch: the chapters do, in their own processes.
"""

from kdrepro.book.execution import ChapterResult, execute
from kdrepro.book.notebooks import chapters
from kdrepro.book.pages import BuildFailed, build
from kdrepro.book.staging import stage

__all__ = ["BuildFailed", "ChapterResult", "build", "chapters", "execute", "stage"]
