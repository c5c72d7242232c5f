"""The tables that runs end with: networked ones to the byte, others in 80 columns."""

import pytest
from rich.console import Console

from jsplit.analysis import tables
from jsplit.analysis.traffic import traffic_of
from jsplit.experiment.progress import states_in_words

SUMMARY = {
    "states": "AABCC",
    "bytes": {
        "activations": {"up": 153_600, "down": 0},
        "headers": {"up": 390, "down": 260},
        "client_parts": {"up": 0, "down": 0},
        "total": 154_250,
        "paper_payload": 153_600,
    },
    "always_a_float32": {"bytes": {"total": 1_542_500}},
    "network": {
        "counted": {
            "activations": {"up": 98_106, "down": 0},
            "headers": {"up": 390, "down": 260},
            "evaluation": {"up": 16_314, "down": 38},
            "handshake": {"up": 430, "down": 53},
            "repeated": {"up": 1, "down": 13},
            "total": 115_605,
        },
        "saved": {
            "activations": {"up": 55_494, "down": 0},
            "evaluation": {"up": 9_414, "down": 0},
        },
    },
    "test_accuracy": 0.49,
    "seconds": 33.14,
}


@pytest.fixture
def rows():
    """The cells of the table, by the first of each row, in 100 columns."""
    console = Console(width=100, record=True, highlight=False)
    console.print(tables.of_network(SUMMARY))
    lines = console.export_text().splitlines()
    cells = [line.strip("│").split("│") for line in lines if line.startswith("│")]
    return {
        name.rstrip().removeprefix(" "): [number.strip() for number in row]
        for name, *row in cells
    }


def number(cell):
    return int(cell.replace(",", "") or 0)


def test_columns_add_up_to_the_byte(rows):
    kinds = [
        [number(cell) for cell in row] for name, row in rows.items() if name[0] == " "
    ]
    assert len(kinds) == 9
    for sums, parts in (
        ("training", kinds[:3]),
        ("beside training", kinds[3:]),
        ("everything", kinds),
    ):
        for place in (1, 2):  # What crossed, and what was spared.
            assert number(rows[sums][place]) == sum(part[place] for part in parts)
    assert number(rows["everything"][1]) == SUMMARY["network"]["counted"]["total"]
    assert number(rows["training"][0]) == SUMMARY["bytes"]["total"]


def test_a_prediction_is_compared_with_training_alone(rows):
    assert rows["training"] == ["154,250", "98,756", "55,494", "0"]
    assert rows["  evaluation, up"] == ["", "16,314", "9,414", ""]
    assert rows["training reduced by"][:2] == ["/10.00", f"/{1_542_500 / 98_756:.2f}"]


def test_what_was_not_predicted_shows_as_a_difference():
    counted = SUMMARY["network"]["counted"] | {"headers": {"up": 380, "down": 260}}
    summary = SUMMARY | {"network": SUMMARY["network"] | {"counted": counted}}
    differences = {row.name: row.difference for row in traffic_of(summary).training}
    assert differences == {"activations, up": 0, "headers, up": 10, "headers, down": 0}


# A run on one machine

MOST = 1023 * 2**40
"""Bytes that take as many letters as any do."""


def run_summary(states, **changes):
    """The largest plausible run: ten clients, every kind of traffic both ways."""
    kinds = ("activations", "gradients", "headers", "labels", "client_parts", "control")
    spent = {kind: {"up": MOST, "down": MOST} for kind in kinds}
    spent |= {"total": MOST, "paper_payload": MOST}
    plain = {kind: {"up": 9 * MOST, "down": 9 * MOST} for kind in kinds}
    plain |= {"total": 9999 * MOST, "paper_payload": 9999 * MOST}
    return {
        "states": states,
        "clients": 10,
        "test_accuracy": 1.0,
        "best_test_accuracy": 1.0,
        "bytes": spent,
        "client_macs": 9_999 * 10**15,
        "always_a_float32": {"bytes": plain, "client_macs": 9_999 * 10**15},
        "client_compute_reduction": 9999.99,
        "seconds": 9_999_999.9,
    } | changes


def rendered(table, width):
    console = Console(width=width, record=True, highlight=False)
    console.print(table)
    return console.export_text().splitlines()


@pytest.mark.parametrize("compared", [False, True], ids=["alone", "compared"])
def test_the_last_table_of_a_run_fits_80_columns_whatever_its_numbers(compared):
    summary = run_summary("AB" * 100)
    plain = run_summary("A" * 200, test_accuracy=0.0) if compared else None
    lines = rendered(tables.of_summary(summary, plain), 80)
    assert max(map(len, lines)) <= 80
    # Nothing was folded or cut: it is no lower than where there is room.
    roomy = rendered(tables.of_summary(summary, plain), 300)
    rows = [line for line in lines if line.startswith("│")]
    assert len(rows) == len([line for line in roomy if line.startswith("│")]) > 10
    assert not any("…" in row for row in rows)
    text = "\n".join(rows)
    assert "1023.0 TiB" in text and "9,999,999.9" in text and "/9,999.99" in text


def test_the_last_table_says_the_difference_in_accuracy_where_plain_was_run():
    summary = run_summary("AABCC", test_accuracy=0.7)
    alone = "\n".join(rendered(tables.of_summary(summary), 80))
    assert "not run" in alone and "points" not in alone
    assert "states by epoch: A x2, B, C x2" in alone
    plain = run_summary("AAAAA", test_accuracy=0.725, seconds=12.5)
    both = "\n".join(rendered(tables.of_summary(summary, plain), 80))
    assert "-2.50 points" in both and "72.50%" in both and "12.5" in both
    assert "not run" not in both


@pytest.mark.parametrize(
    ("states", "longest", "text"),
    [
        ("", None, ""),
        ("A", None, "A"),
        ("AAABCCCC", None, "A x3, B, C x4"),
        ("LLABA", None, "L x2, A, B, A"),
        ("AAABCCCC", 13, "A x3, B, C x4"),
        ("AAABCCCC", 12, "A x3, B, …"),
        ("AB" * 9, 1, "…"),
    ],
)
def test_states_are_written_so_that_a_stranger_reads_them(states, longest, text):
    assert states_in_words(states, longest) == text
