"""`jsplit COMMAND --help`: every option in a group, in sentences, in 80 columns."""

import importlib
import re
import typing

import pytest

from jsplit.cli import main as cli
from jsplit.cli import parsing
from jsplit.cli.elsewhere import options_in
from jsplit.cli.help_page import GROUPS, folded
from jsplit.core.option import options_of
from jsplit.experiment.config import flag
from jsplit.experiment.run_config import RunConfig
from tests.runs import refused


@pytest.fixture
def command_of(monkeypatch):
    """What a command takes: its dataclass, as the parser gets it."""

    class Asked(Exception):
        pass

    def asked(default, *rest):
        raise Asked(default)

    def command(name):
        module = importlib.import_module(f"jsplit.cli.{name}")
        with monkeypatch.context() as patch:
            patch.setattr(parsing, "parse", asked)
            with pytest.raises(Asked) as found:
                module.command([], f"jsplit {name}")
        return found.value.args[0]

    return command


@pytest.fixture
def page_of(monkeypatch, capsys):
    """The help of a command in so many columns."""

    def page(name, columns):
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as stop:
            cli.main([name, "--help"])
        assert not stop.value.code
        return capsys.readouterr().out

    return page


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_option_of_every_command_is_a_sentence_in_a_group(name, command_of):
    arguments = list(parsing._arguments(command_of(name), {}))
    assert arguments
    for argument in arguments:
        notes = typing.get_args(argument.annotation)
        positional = parsing.tyro.conf.Positional[str].__metadata__[0] in notes
        assert (argument.group is None) == positional, argument.name
        (said,) = [note.help for note in notes if getattr(note, "help", None)]
        assert re.fullmatch(r"[A-Z][^\n]*\.", said), f"{flag(argument.name)}: {said}"
        assert "  " not in said and ".." not in said


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_choices_are_shown_as_choices(name, command_of, page_of):
    # Many choices are folded within their box.
    page = re.sub(r"[\s│]", "", page_of(name, 80))
    for option, known, _ in options_in(type(command_of(name))):
        if known.choices is not None:
            assert f"{flag(option)}{{{','.join(known.choices)}}}" in page


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_fits_80_columns(name, page_of):
    page = page_of(name, 80)
    assert max(map(len, page.splitlines())) <= 80
    assert "Shows this message, then exits." in page
    boxes = [line for line in page.splitlines() if line.startswith("│")]
    assert boxes and all(line.endswith("│") for line in boxes)


def test_every_setting_of_a_run_is_in_one_group_that_is_described():
    groups = RunConfig.GROUPS
    named = [name for names in groups.values() for name in names]
    assert sorted(named) == sorted(options_of(RunConfig))
    assert set(groups) <= set(GROUPS)


def test_the_settings_of_a_run_are_shown_in_their_groups(page_of):
    page = page_of("run", 80)
    boxes = dict(re.findall(r"╭─ (\w+) options ─+╮\n(.*?)╰", page, re.DOTALL))
    assert list(boxes)[0] == "run" and set(RunConfig.GROUPS) == set(boxes)
    for option, group in (
        ("--compare", "run"),
        ("--workdir", "run"),
        ("--threshold", "gate"),
        ("--sync-epochs", "gate"),
        ("--batch-size", "optimiser"),
        ("--coordinator", "system"),
    ):
        assert [box for box, said in boxes.items() if f"│ {option} " in said] == [group]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_gate_is_named_only_where_the_command_takes_one(name, page_of):
    page = " ".join(re.sub("[│╭╰─╯╮]", " ", page_of(name, 80)).split())
    takes_one = name in ("run", "serve", "join")
    assert ("--gate {" in page) == takes_one
    assert ("Only with --gate budget." in page) == takes_one


def test_only_lines_outside_of_boxes_are_folded():
    box = "│ a box is folded by the parser │"
    assert folded(f"{'word ' * 5}end\n\n{box}\n", 16) == (
        f"word word word\nword word end\n\n{box}\n"
    )


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("run --no-resume", "did you mean --resume?"),
        ("sweep --no-dry", "did you mean --dry?"),
        ("join --no-own-dat", "did you mean --no-own-data?"),
        ("predict r i --images x", "see --help"),
        ("report r --folder x", "--folder is an option of jsplit sweep"),
    ],
)
def test_nothing_is_proposed_that_the_command_does_not_take(words, meant, capsys):
    assert meant in refused(capsys, lambda: cli.main(words.split()))


@pytest.mark.parametrize(("command", "key"), [("run", "compare"), ("serve", "listen")])
def test_what_is_no_setting_of_a_run_is_sent_from_a_file_to_the_command_line(
    command, key, capsys, tmp_path
):
    file = tmp_path / "run.toml"
    file.write_text(f"epochs = 2\n{key} = true\n")
    said = refused(capsys, lambda: cli.main([command, "--config", str(file)]))
    assert f"{key} is no setting of a run" in said and f"say --{key} on" in said
