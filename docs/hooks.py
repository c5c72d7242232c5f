"""Pages of the site that are files of the repository, so that nothing is written twice.

mkdocs calls these functions by their names. A page that is added here is a committed
file as it stands: what `jsplit report` and `jsplit privacy` wrote, the examples' own
instructions, the notebooks, the method of the benchmarks, and the changelog.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

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


def elsewhere() -> dict[Path, str]:
    """The files of the repository that become pages, and the pages' addresses."""
    return {
        **{ROOT / source: page for page, source in OTHERS.items()},
        **{path: f"reports/{path.stem}.md" for path in sorted(REPORTS.glob("*.md"))},
        **{
            path: f"notebooks/{path.stem}.md"
            for path in sorted(NOTEBOOKS.glob("*.ipynb"))
        },
    }


def text_of(path: Path) -> str:
    """What the page of such a file says."""
    if path.suffix == ".ipynb":
        return notebook(path)
    return report(path) if path.parent == REPORTS else path.read_text()


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that lie outside `docs`."""
    for path, page in elsewhere().items():
        files.append(File.generated(config, page, content=text_of(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **kwargs: Any) -> str:
    """Leads links to files of the repository to their pages.

    A page of `docs` names the file, so that the link leads somewhere in the repository
    too. And keeps a mean and its deviation on one line of a narrow column.
    """
    here = Path(page.file.src_uri).parent
    pages = elsewhere()

    def led(link: re.Match[str]) -> str:
        found = pages.get(Path(os.path.normpath(ROOT / "docs" / here / link[1])))
        return f"]({os.path.relpath(found, here)}" if found else link[0]

    if page.file.generated_by is None:
        markdown = re.sub(r"\]\(([^)#:]+)", led, markdown)
    return markdown.replace(" ± ", "\u00a0±\u00a0")
