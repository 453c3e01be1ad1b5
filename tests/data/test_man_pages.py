"""Manual pages as a Retrieval data set."""

import gzip

import pytest

from luna_tf.data.lra.man_pages import main, parse_page, read_pages
from luna_tf.data.lra.retrieval import load_retrieval

# Written like those of the Linux manual and of Perl, with their preambles.
PAGE = r"""'\" t
.\" Copyright of someone
.de Sp \" a macro
.if t .sp .5v
..
.TH open 2 2023-02-05 "Linux man-pages"
.SH NAME
open \- open a \fIfile\fR \" of any kind
.IX Header "NAME"
.SH "SEE ALSO"
.BR close (2),
\fBdup\fR\|(2), File::Find,
.B read
(2)
.\" .BR secret (2)
.SS "Threads"
.PP
The \*(L"call\*(R"
.RI ( fd )
returns \e0 or \(aqx\(aq, \f[B]bold\f[] \f(CWcode\fP\s-1SMALL\s0\&.
.IP "an item" 4
.B two words
.B "in ""quotes"" now"
"""
PRINTED = """NAME
open - open a file
COPYING
Threads
The "call"
(fd)
returns \\0 or 'x', bold codeSMALL.
an item
two words
in "quotes" now"""


def test_what_is_printed():
    page = parse_page(PAGE.replace(".SS", ".SH COPYING\n.SS"))
    assert page.text == PRINTED
    assert page.see_also == "close(2),\ndup(2), File::Find,\nread\n(2)"


def test_a_section_ends_at_the_next_not_at_a_subsection():
    page = parse_page(PAGE)
    assert page.text == "NAME\nopen - open a file"
    assert page.see_also.endswith('in "quotes" now')


def test_what_is_no_man_page():
    assert parse_page("=head1 NAME\n\nno troff\n") == ("", "")


def write(path, name, section, see_also="", words=300):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = f".TH {name} {section}\n.SH NAME\n{name}\n{'word ' * words}\n"
    if see_also:
        text += f".SH SEE ALSO\n{see_also}\n"
    pack = gzip.compress if path.suffix == ".gz" else bytes
    path.write_bytes(pack(text.encode("latin-1")))


@pytest.fixture
def source(tmp_path):
    """Two packages, with all that is found in such folders."""
    folder = tmp_path / "source"
    one = folder / "one" / "usr" / "share" / "man"
    two = folder / "two" / "man"
    write(one / "man2" / "open.2.gz", "open", 2, "close (2), dup2 (2)")
    write(one / "man2" / "close.2", "close", 2, "open (2), perl (1), none (9)")
    write(one / "man2" / "dup.2", "dup", 2, "link (3) caf\xe9")
    (one / "man2" / "dup2.2").write_text(".so man2/dup.2\n")
    (one / "man3").mkdir()
    (one / "man3" / "link.3").symlink_to("../man2/open.2.gz")
    write(two / "man3" / "File::Find.3perl.gz", "find", 3, "A::B, short (2)")
    write(two / "man3" / "A::B.3pm", "a", 3)
    write(two / "man2" / "short.2", "short", 2, words=10)
    write(two / "man2" / "open.2", "other", 2, "A::B (3)")
    write(two / "de" / "man2" / "offen.2", "offen", 2)
    (two / "man2" / "README").write_text("no page")
    return folder


def test_pages_of_a_folder(source):
    pages = read_pages(source)
    assert pages.groups == {
        "open.2": ("one", "2"),
        "close.2": ("one", "2"),
        "dup.2": ("one", "2"),
        "File::Find.3": ("two", "3"),
        "A::B.3": ("two", "3"),
    }
    # Aliases are followed; there are no pages none(9), short(2), perl(1).
    assert pages.citations == {
        ("open.2", "close.2"),
        ("open.2", "dup.2"),
        ("close.2", "open.2"),
        ("dup.2", "open.2"),
        ("File::Find.3", "A::B.3"),
    }
    assert set(pages.texts) == set(pages.groups)
    assert pages.texts["open.2"].startswith("NAME\nopen\nword word")
    assert "close" not in pages.texts["open.2"]


def test_no_pages(tmp_path):
    with pytest.raises(FileNotFoundError, match="no manual pages of 1,000"):
        read_pages(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        read_pages(tmp_path / "none")


def test_damaged_page(source):
    path = source / "one" / "usr" / "share" / "man" / "man2" / "open.2.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="open.2.gz is a damaged gzip file"):
        read_pages(source)


def write_ring(folder, start):
    """Writes 60 pages, each of which cites the next two."""
    for i in range(60):
        cited = (f"page{start + (i + step) % 60} (1)" for step in (1, 2))
        name = f"page{start + i}"
        write(folder / "man1" / f"{name}.1", name, 1, ", ".join(cited))


def test_command_line(tmp_path, capsys):
    source, target = tmp_path / "source", tmp_path / "target"
    arguments = [str(source), str(target), "--held_out=0.2"]
    write_ring(source, 0)
    # They are two neighbourhoods, which cannot make three splits.
    with pytest.raises(SystemExit, match="60 documents .* too few"):
        main(arguments)
    write_ring(source, 60)
    write_ring(source, 120)
    main(arguments)
    assert "180 pages with 360 citations make" in capsys.readouterr().out
    splits = load_retrieval(target)
    assert list(splits) == ["train", "validation", "test"]
    for split in splits.values():
        assert split.labels.mean() == 0.5
    with pytest.raises(SystemExit, match="is there already"):
        main(arguments)
