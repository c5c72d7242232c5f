"""An epoch's record as a line for people."""

import datetime
import math
from collections.abc import Mapping
from typing import Any

from jsplit.experiment.quantities import human_bytes


def line_parts(record: Mapping[str, Any]) -> list[str]:
    """Formats a record for people, as the parts of one line.

    Example: `epoch  3/12`, `A`, `loss 0.4123`, `test 84.30%`, `sent 5.2 MiB (/3.10)`,
    `ETA 0:00:42`. What is sent is every byte of training so far, and the number beside
    it how many times less that is than plain split learning sends. A networked
    run calls that `predicted`, as its last table does, and has `crossed 4.1 MiB`
    besides: all that was counted. A number that is missing or not finite shows as "-".
    """
    total = str(record.get("epochs", "?"))
    eta = _finite(record.get("eta_seconds"))
    counted = "counted_bytes" in record
    left = "-" if eta is None else datetime.timedelta(seconds=max(0, round(eta)))
    return [
        f"epoch {record.get('epoch', '?'):>{len(total)}}/{total}",
        str(record.get("state", "-")),
        f"loss {_number(record, 'train_loss', '.4f')}",
        f"test {_number(record, 'test_accuracy', '.2%')}",
        *([f"clients {record['clients']}"] if "clients" in record else []),
        f"{'predicted' if counted else 'sent'} {_bytes(record, 'wire_bytes')} "
        f"(/{_number(record, 'wire_reduction', '.2f')})",
        *([f"crossed {_bytes(record, 'counted_bytes')}"] if counted else []),
        f"ETA {left}",
        *([record["gate_reason"]] if record.get("gate_reason") else []),
    ]


def _number(record: Mapping[str, Any], name: str, spec: str) -> str:
    value = _finite(record.get(name))
    return "-" if value is None else format(value, spec)


def _bytes(record: Mapping[str, Any], name: str) -> str:
    value = _finite(record.get(name))
    return "-" if value is None else human_bytes(int(value))


def _finite(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
