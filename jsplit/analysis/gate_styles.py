"""How pictures draw each gate: its own style, or one that no other gate has."""

import itertools

from jsplit.core.gate_choice import GateChoice, Style
from jsplit.core.gates import GATES

# Of Okabe and Ito, and of Tol: colours and markers that no gate of the package has.
# Their counts have no common divisor, so that both change from one to the next.
_COLOURS = ("#0072B2", "#009E73", "#E69F00", "#882255", "#7F7F7F")
_MARKERS = ("X", "P", "v", "<", ">", "p", "h", "*")


def style_of(gate: type[GateChoice]) -> Style:
    """The style of a gate in every picture.

    A gate without one of its own gets the next of a fixed list, by its place in the
    registry `GATES`, so that it is the same from picture to picture and run to run; one
    of another package has its place there by when it was looked up. The style differs
    from that of every other gate, as long as not more than 36 have none.

    Args:
        gate: its class.

    Raises:
        ValueError: if it has no style of its own and is not in the registry.

    Example:
        >>> from jsplit.core.gates import LossGate
        >>> style_of(LossGate)
        Style(colour='#D55E00', marker='o')
    """
    if gate.style is not None:
        return gate.style
    without = [choice for choice in GATES.values() if choice.style is None]
    own = {choice.style for choice in GATES.values()}
    count = len(_COLOURS) * len(_MARKERS)
    pairs = zip(itertools.cycle(_COLOURS), itertools.cycle(_MARKERS), strict=False)
    spare = [
        style
        for style in itertools.starmap(Style, itertools.islice(pairs, count))
        if style not in own
    ]
    if gate not in without:
        raise ValueError(f"{gate.__name__} has no style and is not in GATES")
    return spare[without.index(gate) % len(spare)]
