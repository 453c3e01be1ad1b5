"""Makes a Retrieval data set of manual pages: does one cite the other?

    python -m luna_tf.data.lra.man_pages SOURCE TARGET

SOURCE is searched for folders man1, man2, ... of pages, gzipped or not. A page
cites those that its section SEE ALSO names; that section and all comments are
cut out of the text, and texts under 1,000 characters are left out. TARGET gets
the three files that `retrieval.load_retrieval` reads.

Pages are grouped by section and package. With one folder for each package in
SOURCE, such as manpages/usr/share/man/man2, packages are told apart. Debian's
manpages, manpages-dev and perl-doc, each unpacked to a folder of its own, are
good for a data set. Each page has a licence of its own, mostly a free one; a
package says which in its file `copyright`.
"""

import argparse
import gzip
import os
import re
import sys
import zlib
from pathlib import Path
from typing import NamedTuple

from luna_tf.data.lra.retrieval_pairs import (
    check_target,
    make_pairs,
    write_pairs,
)

MIN_CHARACTERS = 1000

_PLACE = re.compile(r"man(\d)\w*/(.+)\.\d\w*?(\.gz)?")
_COMMENT = re.compile(r"""(^[.']\s*)?\\["#].*""")
_REQUEST = re.compile(r"[.']\s*(\w*)\s*(.*)")
_ARGUMENT = re.compile(r'"((?:[^"]|"")*)"?|(\S+)')
_HEADINGS = ("SH", "SS")
# Their arguments are printed: with spaces between them, or without.
_SPACED = (*_HEADINGS, "B", "I", "SM", "SB")
_JOINED = ("BI", "BR", "IB", "IR", "RB", "RI")
_ITEM = "IP"
_NAMED = re.compile(r"([\w.:+-]+)\s*\((\d)\w*\)")
_MODULE = re.compile(r"\w+(?:::\w+)+")
_ESCAPE = re.compile(
    r"""\\(?:
        [fs]\[[^\]]*\] | f\(.. | f. | s[+-]?\d+    # font and size
      | [hvwZ]'[^']*'                              # motion
      | \*?\((..) | \*?\[([^\]]*)\] | \*(.)        # character or string
      | (.)
    )""",
    re.VERBOSE,
)
_CHARACTERS = {
    "aq": "'", "dq": '"', "lq": '"', "rq": '"', "oq": "'", "cq": "'",
    'L"': '"', 'R"': '"', "Aq": "'", "--": "-", "em": " - ", "en": "-",
    "hy": "-", "mi": "-", "rs": "\\", "ha": "^", "ti": "~", "ga": "`",
    "bu": "*", "mu": "x", "->": "->", "<-": "<-", "<=": "<=", ">=": ">=",
    "-": "-", "e": "\\", "\\": "\\", "'": "'", "`": "`", ".": ".",
    " ": " ", "~": " ", "0": " ", "t": " ",
}  # fmt: skip


class Page(NamedTuple):
    """A manual page.

    Args:
        text: what is printed, less the section SEE ALSO.
        see_also: what is printed in that section.
    """

    text: str
    see_also: str


def parse_page(source: str) -> Page:
    """Takes the printed words out of a page in the man macros of troff.

    Args:
        source: the page. What comes before its title (`.TH`) is not printed.

    Returns:
        The words, one line per line of the source.

    Example:

    >>> parse_page('.TH ls 1\\n.B list\\n.SH "SEE ALSO"\\n.BR dir (1)')
    Page(text='list', see_also='dir(1)')
    """
    text: list[str] = []
    see_also: list[str] = []
    lines = iter(source.splitlines())
    for line in lines:
        if re.match(r"\.\s*TH\b", line):
            break
    section = text
    for line in lines:
        macro, words = _printed(_COMMENT.sub("", line))
        if macro == "SH":
            section = see_also if words.upper() == "SEE ALSO" else text
            if section is see_also:
                continue
        if words:
            section.append(words)
    return Page("\n".join(text), "\n".join(see_also))


def _printed(line: str) -> tuple[str, str]:
    """The macro of a line, if any, and what the line prints."""
    macro = ""
    if request := _REQUEST.match(line):
        macro, line = request.groups()
        arguments = [
            quoted.replace('""', '"') if quoted else plain
            for quoted, plain in _ARGUMENT.findall(line)
        ]
        if macro in _JOINED:
            line = "".join(arguments)
        elif macro in _SPACED:
            line = " ".join(arguments)
        else:
            line = arguments[0] if macro == _ITEM and arguments else ""
    return macro, _ESCAPE.sub(_character, line).strip()


def _character(escape: re.Match) -> str:
    return _CHARACTERS.get(next(filter(None, escape.groups()), ""), "")


class Collection(NamedTuple):
    """Manual pages, by names such as `printf.3`.

    Args:
        texts: what the pages print, less SEE ALSO.
        groups: package and section of each.
        citations: which page names which.
    """

    texts: dict[str, str]
    groups: dict[str, tuple[str, str]]
    citations: set[tuple[str, str]]


def read_pages(source: str | os.PathLike) -> Collection:
    """Reads all manual pages in a folder.

    Translations are left out; so are pages that are not written in the man
    macros. A citation of another name of a page (a link, or a page of nothing
    but `.so`) is one of that page.

    Args:
        source: see the module.

    Returns:
        The pages of at least `MIN_CHARACTERS` characters.

    Raises:
        FileNotFoundError: there is no such folder, or no page in it.
        OSError: a page cannot be read.
        ValueError: a gzip file is damaged.

    Example:

    >>> from pathlib import Path
    >>> Path("manpages/man1").mkdir(parents=True)
    >>> for name, other in (("ls", "dir"), ("dir", "ls")):
    ...     text = ["list files"] * 100 + [".SH SEE ALSO", f".BR {other} (1)"]
    ...     path = Path(f"manpages/man1/{name}.1")
    ...     _ = path.write_text("\\n".join([f".TH {name} 1", *text]))
    >>> pages = read_pages("manpages")
    >>> sorted(pages.citations), pages.texts["ls.1"][:10]
    ([('dir.1', 'ls.1'), ('ls.1', 'dir.1')], 'list files')
    """
    source = Path(source).expanduser()
    if not source.is_dir():
        raise FileNotFoundError(f"There is no folder {source.absolute()}.")
    aliases: dict[str, str] = {}
    pages: dict[str, Page] = {}
    groups: dict[str, tuple[str, str]] = {}
    for path in sorted(source.rglob("man[1-9]*/*")):
        name = _name(path)
        if not name or name in pages or _is_translation(path):
            continue
        if path.is_symlink():
            aliases.setdefault(name, _name(path.parent / os.readlink(path)))
            continue
        content = _read(path)
        if content.startswith(".so "):
            aliases.setdefault(name, _name(Path(content.split()[1])))
            continue
        page = parse_page(content)
        if len(page.text) >= MIN_CHARACTERS:
            package = path.relative_to(source).parts[0]
            pages[name] = page
            groups[name] = (package, name[-1])
    if not pages:
        raise FileNotFoundError(
            f"There are no manual pages of {MIN_CHARACTERS:,} characters in "
            f"folders man1, man2, ... in {source.absolute()}."
        )
    citations = {
        (name, aliases.get(other, other))
        for name, page in pages.items()
        for other in _named(page.see_also, name[-1])
    }
    return Collection(
        {name: page.text for name, page in pages.items()},
        groups,
        {(a, b) for a, b in citations if b in pages and a != b},
    )


def _named(see_also: str, section: str) -> set[str]:
    with_section = {f"{n}.{s}" for n, s in _NAMED.findall(see_also)}
    # Perl's modules are named without one.
    return with_section | {f"{n}.{section}" for n in _MODULE.findall(see_also)}


def _name(path: Path) -> str:
    """Name and section of a page, from the folder and the file."""
    found = _PLACE.fullmatch("/".join(path.parts[-2:]))
    return f"{found[2]}.{found[1]}" if found else ""


def _is_translation(path: Path) -> bool:
    """Whether the page is in man/de/man1 rather than in man/man1."""
    return path.parts[-4:-3] == ("man",)


def _read(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(
                f"{path} is a damaged gzip file: {error}."
            ) from error
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def main(arguments: list[str] | None = None) -> None:
    """Makes the data set that the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m luna_tf.data.lra.man_pages",
        description="Makes a Retrieval data set of manual pages.",
    )
    parser.add_argument("source", help="folder with folders man1, man2, ...")
    parser.add_argument("target", help="folder for the data set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--held_out",
        type=float,
        default=0.1,
        help="share of the pages for validation, and for test (default: 0.1)",
    )
    options = parser.parse_args(arguments)
    try:
        check_target(Path(options.target).expanduser())
        pages = read_pages(options.source)
        examples = make_pairs(
            pages.groups, pages.citations, options.seed, options.held_out
        )
        write_pairs(options.target, examples, pages.texts)
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    sizes = ", ".join(
        f"{len(rows):,} {name}" for name, rows in examples.items()
    )
    print(
        f"{len(pages.texts):,} pages with {len(pages.citations):,} citations "
        f"make {sizes} pairs in {options.target}"
    )


if __name__ == "__main__":
    main()
