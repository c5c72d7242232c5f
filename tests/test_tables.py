"""The table of a networked run: what was predicted and counted, to the byte."""

import pytest
from rich.console import Console

from jsplit.analysis import tables
from jsplit.analysis.traffic import traffic_of

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
