"""Makes a Retrieval data set of documents that cite each other."""

import collections
import os
from collections.abc import Collection, Hashable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from luna_tf.data.lra.retrieval import FILES

# Pages per neighbourhood: few enough that no split is a single topic, enough
# that most citations stay inside.
_BLOCK = 40
_DRAWS = 20

_Pair = tuple[str, str]


class Example(NamedTuple):
    """Two documents, by name, and 1 if one cites the other, else 0."""

    label: int
    first: str
    second: str


def make_pairs(
    groups: Mapping[str, Hashable],
    citations: Collection[_Pair],
    seed: int = 0,
    held_out: float = 0.1,
) -> dict[str, list[Example]]:
    """Splits documents, and pairs those of each split.

    No document is in two splits, so citations between splits are lost. To
    lose few, documents are split by neighbourhoods: blocks that grow along
    citations. Half of a split are the citations in it. For each of them there
    is a pair with the same first document and another second one, which
    neither cites the first nor is cited by it; it is drawn from the second
    documents of the same group in this split, so that neither the groups nor
    how often a document is cited gives an answer away. A citation for which
    there is no such document is left out.

    Args:
        groups: the group of each document; one name for each.
        citations: pairs of names, in any direction; others are ignored.
        seed: results depend on it and the other arguments only.
        held_out: share of the documents for validation, and for test.

    Returns:
        The examples of `"train"`, `"validation"` and `"test"`, shuffled.

    Raises:
        ValueError: `held_out` is not in (0, 0.5), or a split has no pairs.

    Example:

    >>> names = [f"p{i}" for i in range(200)]
    >>> citations = set(zip(names, names[1:])) | set(zip(names, names[7:]))
    >>> pairs = make_pairs(dict.fromkeys(names, "parsing"), citations)
    >>> {split: len(examples) for split, examples in pairs.items()}
    {'train': 516, 'validation': 144, 'test': 92}
    >>> pairs["train"][0]
    Example(label=0, first='p62', second='p24')
    """
    if not 0 < held_out < 0.5:
        raise ValueError(
            "held_out must be above 0 and below 0.5. "
            f"Received: held_out={held_out}."
        )
    rng = np.random.Generator(np.random.PCG64(seed))
    links: dict[str, set[str]] = collections.defaultdict(set)
    for one, other in sorted(citations):
        if one != other and one in groups and other in groups:
            links[one].add(other)
            links[other].add(one)
    examples = {}
    for name, documents in _split(links, held_out, rng).items():
        examples[name] = _pair(documents, groups, links, rng)
        if not examples[name]:
            raise ValueError(
                f"{len(groups)} documents with {len(citations)} citations are "
                f"too few: there are no pairs for {name}."
            )
    return examples


def write_pairs(
    folder: str | os.PathLike,
    examples: Mapping[str, list[Example]],
    texts: Mapping[str, str],
    max_bytes: int = 10_000,
) -> None:
    """Writes pairs as AAN was released, see `retrieval.load_retrieval`.

    Args:
        folder: made if need be; nothing in it is overwritten.
        examples: from `make_pairs`.
        texts: the text of each document. White space becomes single spaces.
        max_bytes: longer texts are cut, between characters.

    Raises:
        FileExistsError: one of the files is there already.
        OSError: `folder` cannot be written to.

    Example:

    >>> from pathlib import Path
    >>> one = [Example(label=1, first="a", second="b")]
    >>> splits = dict.fromkeys(["train", "validation", "test"], one)
    >>> write_pairs("pairs", splits, {"a": "One\\ntext.", "b": "Its source."})
    >>> Path("pairs/new_aan_pairs.test.tsv").read_text()
    '1.0\\ta\\tb\\tOne text.\\tIts source.\\n'
    """
    folder = Path(folder).expanduser()
    check_target(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in examples.items():
        path = folder / FILES[name]
        partial = path.with_suffix(".partial")
        with open(partial, "w", encoding="utf-8", newline="\n") as file:
            for row in rows:
                pair = row.first, row.second
                columns = [_one_line(texts[n], max_bytes) for n in pair]
                file.write("\t".join([f"{row.label:.1f}", *pair, *columns]))
                file.write("\n")
        os.replace(partial, path)


def check_target(folder: Path) -> None:
    """Raises a FileExistsError if `write_pairs` would not write there."""
    for file in FILES.values():
        if os.path.lexists(folder / file):
            raise FileExistsError(
                f"{folder / file} is there already, and is not overwritten: "
                "remove it or name another folder."
            )


def _one_line(text: str, max_bytes: int) -> str:
    cut = " ".join(text.split()).encode()[:max_bytes]
    return cut.decode(errors="ignore")


def _split(
    links: Mapping[str, set[str]], held_out: float, rng: np.random.Generator
) -> dict[str, list[str]]:
    found = _neighbourhoods(links, rng)
    limit = int(len(links) * held_out)
    splits: dict[str, list[str]] = {"test": [], "validation": [], "train": []}
    for block in rng.permutation(len(found)):
        roomy = (n for n in ("test", "validation") if len(splits[n]) < limit)
        splits[next(roomy, "train")] += found[block]
    return {name: splits[name] for name in FILES}


def _neighbourhoods(
    links: Mapping[str, set[str]], rng: np.random.Generator
) -> list[list[str]]:
    """Blocks of documents most of whose citations are among themselves."""
    names = sorted(links)
    rank = {
        names[i]: place for place, i in enumerate(rng.permutation(len(names)))
    }
    free = dict.fromkeys(sorted(names, key=lambda name: rank[name]))
    blocks = []
    while free:
        block = [next(iter(free))]
        border: collections.Counter[str] = collections.Counter()
        while True:
            newest = block[-1]
            del free[newest]
            border.pop(newest, None)
            border.update(links[newest] & free.keys())
            if len(block) == _BLOCK or not border:
                break
            # The document with the least to lose elsewhere.
            block.append(
                max(
                    border,
                    key=lambda n: (border[n] / len(links[n]), rank[n]),
                )
            )
        blocks.append(block)
    return blocks


def _pair(
    documents: list[str],
    groups: Mapping[str, Hashable],
    links: Mapping[str, set[str]],
    rng: np.random.Generator,
) -> list[Example]:
    inside = set(documents)
    cited = [
        (one, other)
        for one in sorted(documents)
        for other in sorted(links[one] & inside)
        if one < other
    ]
    turned = rng.random(len(cited)) < 0.5
    cited = [
        (b, a) if turn else (a, b)
        for (a, b), turn in zip(cited, turned, strict=True)
    ]
    seconds = collections.defaultdict(list)
    for _, second in cited:
        seconds[groups[second]].append(second)
    examples: list[Example] = []
    used: set[frozenset[str]] = set()
    for first, second in cited:
        pool = seconds[groups[second]]
        # As often as they are cited: first a few draws, then whatever is left.
        drawn = rng.integers(len(pool), size=_DRAWS).tolist()
        for i in [*drawn, *rng.permutation(len(pool)).tolist()]:
            other = pool[i]
            pair = frozenset((first, other))
            if (
                other != first
                and other not in links[first]
                and pair not in used
            ):
                used.add(pair)
                examples.append(Example(1, first, second))
                examples.append(Example(0, first, other))
                break
    return [examples[i] for i in rng.permutation(len(examples))]
