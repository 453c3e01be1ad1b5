"""Results as tables."""

import json

import pytest
from luna_tf.trainers import tables

ROWS = {
    "Test": [("BLEU", "12.3", "signature"), ("chrF", " 4.5", "")],
    "Run": [("wall time", "1:00 h", "")],
}


def test_for_a_terminal_columns_are_aligned_and_lines_end_in_text():
    assert tables.to_text("Title", ROWS).splitlines() == [
        "Title",
        "=====",
        "",
        "Test",
        "  BLEU       12.3   signature",
        "  chrF        4.5",
        "",
        "Run",
        "  wall time  1:00 h",
    ]


def test_markdown_has_a_table_below_every_heading():
    text = tables.to_markdown("Title", ROWS)
    assert text.startswith("# Title\n\n## Test\n\n| | | |\n|---|--:|---|\n")
    assert "\n| BLEU | 12.3 | signature |\n" in text
    assert text.endswith(
        "\n\n## Run\n\n| | | |\n|---|--:|---|\n| wall time | 1:00 h |  |\n"
    )


def test_names_from_data_are_no_markdown():
    rows = {"Test": [("<b>|\\", "1", "two\nlines")]}
    text = tables.to_markdown("Title", rows)
    assert "| &lt;b&gt;\\|\\\\ | 1 | two lines |" in text


def test_only_files_that_exist_are_shown(tmp_path):
    (tmp_path / "a").write_text("")
    text = tables.files_text(str(tmp_path), {"a": "one", "longer": "two"})
    assert text == f"Files in {tmp_path}\n  a       one"


def test_writes_both_and_refuses_what_json_lacks(tmp_path):
    results = {"title": "tränslate", "x": 1.5}
    tables.write(str(tmp_path), results, ROWS)
    written = (tmp_path / "results.json").read_text(encoding="utf8")
    assert json.loads(written) == results and "tränslate" in written
    markdown = (tmp_path / "results.md").read_text(encoding="utf8")
    assert markdown == tables.to_markdown("tränslate", ROWS)
    with pytest.raises(ValueError, match="JSON"):
        tables.write(str(tmp_path), {**results, "x": float("nan")}, ROWS)


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (1234.5, "1,234 tokens/s"),
        (10.0, "10 tokens/s"),
        (9.96, "10.0 tokens/s"),
    ],
)
def test_speeds_have_as_many_digits_as_mean_something(rate, text):
    assert tables.speed(rate, "tokens") == text
    assert tables.speed(1.23) == "1.2 examples/s"
