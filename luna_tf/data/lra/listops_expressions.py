"""ListOps expressions: their vocabulary, notations and values.

An expression is nested lists of digits under one of four operators, such as
`[MAX 4 3 [MIN 2 5 ] 9 ]` (9). Opening bracket and operator are one token.
"""

from collections.abc import Sequence

import numpy as np

OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
# A token's id is its index. The order is fixed for good: trained models depend
# on it.
VOCABULARY: tuple[str, ...] = (
    ("<pad>", "<cls>", "<eos>") + tuple("0123456789") + OPERATORS + ("]",)
)
PAD_ID = 0
CLS_ID = 1
EOS_ID = 2
ZERO_ID = VOCABULARY.index("0")
FIRST_OPERATOR_ID = VOCABULARY.index("[MIN")
CLOSE_ID = VOCABULARY.index("]")

_IDS = {token: i for i, token in enumerate(VOCABULARY) if i > EOS_ID}
_PARENTHESES_TO_SPACES = str.maketrans("()", "  ")


def encode(expression: str) -> np.ndarray:
    """Returns the ids of an expression (uint8).

    Tokens are separated by white space. The parentheses of the released files
    are only another notation for the same expression: they are dropped.

    Raises:
        ValueError: a token is not in `VOCABULARY`, or is a special one.

    Example:

    >>> encode("( ( ( [MAX 4 ) 3 ) ] )")
    array([14,  7,  6, 17], dtype=uint8)
    """
    tokens = expression.translate(_PARENTHESES_TO_SPACES).split()
    try:
        return np.frombuffer(bytes([_IDS[token] for token in tokens]), np.uint8)
    except KeyError as error:
        raise ValueError(
            f"unknown token {str(error)[:80]}, expected one of "
            + " ".join(_IDS)
        ) from None


def decode(ids: Sequence[int] | np.ndarray) -> str:
    """Returns the tokens of some ids, joined by spaces."""
    return " ".join(VOCABULARY[i] for i in ids)


def evaluate(
    expression: str | Sequence[str] | Sequence[int] | np.ndarray,
) -> int:
    """Returns the value of an expression.

    `[MIN` and `[MAX` are smallest and largest argument, `[SM` is the sum
    modulo 10, `[MED` the median, halves cut off.

    Args:
        expression: as text, as tokens or as ids.

    Returns:
        An int, 0..9.

    Raises:
        ValueError: this is not one whole expression. The message says why.

    Example:

    >>> evaluate("[SM 7 [MED 1 4 ] 3 ]")
    2
    """
    if isinstance(expression, str):
        expression = encode(expression)
    elif len(expression) and isinstance(expression[0], str):
        expression = encode(" ".join(map(str, expression)))
    ids: list[int] = np.asarray(expression).tolist()
    enclosing: list[tuple[int, list[int]]] = []
    arguments: list[int] = []
    for position, token in enumerate(ids):
        if ZERO_ID <= token < FIRST_OPERATOR_ID:
            arguments.append(token - ZERO_ID)
        elif FIRST_OPERATOR_ID <= token < CLOSE_ID:
            enclosing.append((token, arguments))
            arguments = []
        elif token == CLOSE_ID and enclosing and arguments:
            operator, outer = enclosing.pop()
            outer.append(_apply(operator, arguments))
            arguments = outer
        elif token == CLOSE_ID:
            problem = "no arguments before" if enclosing else "nothing open for"
            raise ValueError(f"{problem} the ']' at token {position}")
        else:
            raise ValueError(f"id {token} at token {position} is no part of it")
    if enclosing:
        raise ValueError(f"{len(enclosing)} brackets are not closed")
    if len(arguments) != 1:
        raise ValueError(f"expected one expression, found {len(arguments)}")
    return arguments[0]


def _apply(operator: int, arguments: list[int]) -> int:
    match VOCABULARY[operator]:
        case "[MIN":
            return min(arguments)
        case "[MAX":
            return max(arguments)
        case "[SM":
            return sum(arguments) % 10
    ordered, count = sorted(arguments), len(arguments)
    return (ordered[(count - 1) // 2] + ordered[count // 2]) // 2


def to_tsv_source(
    ids: Sequence[int] | np.ndarray, parentheses: bool = True
) -> str:
    """Returns an expression as it stands in a file.

    Args:
        ids: one whole expression.
        parentheses: write the binary tree of the released files, in which
            every operator takes one argument at a time and `]` comes last:
            `( ( ( [MAX 4 ) 3 ) ] )`. Otherwise the tokens alone.

    Returns:
        The text, without tab or line break.

    Raises:
        ValueError: this is not one whole expression.

    Example:

    >>> to_tsv_source(encode("[MAX 4 3 ]"))
    '( ( ( [MAX 4 ) 3 ) ] )'
    >>> to_tsv_source(encode("[MAX 4 3 ]"), parentheses=False)
    '[MAX 4 3 ]'
    """
    evaluate(ids)
    tokens = decode(ids).split()
    if not parentheses:
        return " ".join(tokens)
    # From right to left, an operator knows the number of its arguments.
    parts: list[str] = []
    counts = [0]
    for token in reversed(tokens):
        if token == "]":
            # Every argument, the outermost expression excepted, is followed
            # by the parenthesis that joins it to what stands on its left.
            parts.append("] ) )" if len(counts) > 1 else "] )")
            counts.append(0)
        elif token in OPERATORS:
            parts.append("( " * (counts.pop() + 1) + token)
            counts[-1] += 1
        else:
            parts.append(f"{token} )" if len(counts) > 1 else token)
            counts[-1] += 1
    return " ".join(reversed(parts))
