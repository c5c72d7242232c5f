"""Pages of the site that are files of the repository, so that nothing is written twice.

mkdocs calls these functions by their names. A page that is added here is a committed
file as it stands: what `jsplit report` and `jsplit privacy` wrote, the examples' own
instructions, the notebooks, the method of the benchmarks, and the changelog.
"""

import json
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
REPORTS = ROOT / "benchmarks" / "results"
NOTEBOOKS = ROOT / "docs" / "notebooks"

OTHERS = {
    "changelog.md": "CHANGELOG.md",
    "benchmarks.md": "benchmarks/README.md",
    "examples/two-machines.md": "examples/two_machines/README.md",
    "examples/flower.md": "examples/flower/README.md",
}
"""The page's address, and the file that it is."""


def report(path: Path) -> str:
    """A committed report as a page: its pictures are not kept in the repository."""
    lines = [line for line in path.read_text().splitlines() if line[:2] != "!["]
    title, *rest = lines
    source = f"{path.relative_to(ROOT)}"
    return "\n".join(
        [
            f"# {path.stem}",
            "",
            f"This page is the committed file `{source}`, as the command wrote it. The"
            " command's pictures are not kept in the repository.",
            "",
            f"## {title.lstrip('# ')}",
            *rest,
        ]
    )


def notebook(path: Path) -> str:
    """A notebook as a page: its text and its code. It is kept without outputs."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = [
        source if cell["cell_type"] == "markdown" else f"```py\n{source}\n```"
        for cell in cells
        for source in ["".join(cell["source"])]
    ]
    download = f"[Download this notebook]({path.name}), to run it and see its pictures."
    return "\n\n".join([texts[0], download, *texts[1:]])


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that lie outside `docs`."""
    pages = {page: (ROOT / source).read_text() for page, source in OTHERS.items()}
    for path in sorted(REPORTS.glob("*.md")):
        pages[f"reports/{path.stem}.md"] = report(path)
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        pages[f"notebooks/{path.stem}.md"] = notebook(path)
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Keeps a mean and its deviation on one line of a narrow column."""
    return markdown.replace(" ± ", "\u00a0±\u00a0")
