"""What the README and the pages of docs name is there."""

import contextlib
import io
import re

import pytest

import jsplit
from jsplit.cli.main import main
from jsplit.experiment.config import all_options, flag
from tests.runs import ROOT

COMMANDS = (
    *("run", "plan", "sweep", "report", "predict", "export", "privacy", "pack"),
    *("serve", "join", "certs"),
)

NOT_OURS = {
    "--half": "of the gate that docs/guides/python.md makes",
    "--xla_force_host_platform_device_count": "of XLA",
}
"""Options on pages that no command has, and whose they are."""

NETWORK = "docs/guides/network.md"

PAGES = (
    "README.md",
    *(
        f"docs/{name}.md"
        for name in ("index", "tutorial", "decisions", "sharp-edges", "examples")
    ),
    "docs/platforms.md",
    *sorted(f"docs/guides/{path.name}" for path in (ROOT / "docs/guides").iterdir()),
)


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


@pytest.fixture(scope="module")
def options() -> set[str]:
    """Every option that the help of any command has."""
    said = io.StringIO()
    for command in COMMANDS:
        with contextlib.redirect_stdout(said), pytest.raises(SystemExit):
            main([command, "--help"])
    return set(re.findall(r"--[a-z][a-z-]*", said.getvalue()))


def test_the_readme_has_at_most_150_lines():
    assert len(text_of("README.md").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES)
def test_every_option_on_a_page_is_one_of_a_command(page, options):
    assert {"--threshold", "--own-data", "--dry"} <= options
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text_of(page)))
    assert named - options - NOT_OURS.keys() == set()


READ = [
    "README.md",
    *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/**/*.md")),
]


@pytest.mark.parametrize("page", READ)
def test_every_link_leads_to_a_file_of_the_repository(page):
    # As the page is read there; docs/hooks.py leads them to the pages of the site.
    links = re.findall(r"\]\(([^)#]+)", text_of(page))
    local = [link for link in links if "://" not in link]
    assert len(local) > 10 or page != "README.md"
    folder = (ROOT / page).parent
    assert [link for link in local if not (folder / link).is_file()] == []


@pytest.mark.parametrize("page", [*PAGES, "docs/results.md", "docs/speed.md"])
def test_every_file_of_the_repository_that_a_page_names_is_there(page):
    # Not the addresses of links: mkdocs looks after those.
    found = re.findall(
        r"(?<![\w/(])(?:configs|benchmarks|examples|tests)/[\w/]+\.\w+", text_of(page)
    )
    named = [path for path in found if "NAME" not in path]
    assert [path for path in named if not (ROOT / path).is_file()] == []


def test_the_network_guide_names_every_setting_that_two_sides_may_have_differently():
    (said,) = re.findall(r"Not compared are (.*?)\.\s", text_of(NETWORK), re.DOTALL)
    one_side = [name for name, it in all_options().items() if it.option.one_side]
    assert "dataset" in one_side
    assert [name for name in one_side if f"`{flag(name)}`" not in said] == []


def test_the_reference_has_every_public_name_once():
    found = re.findall(
        r"^(?:::: |\| `)jsplit\.(?:experiment\.trained\.)?(\w+)(?:`|$)",
        text_of("docs/api.md"),
        re.MULTILINE,
    )
    assert sorted(found) == sorted(jsplit.__all__)
