"""The report on runs: what it says, and what it must not let through."""

import html.parser

import numpy as np
import pytest

from luna_tf.data.lra.published import published
from luna_tf.visualize import lra_page
from luna_tf.visualize.lra_summary import Run, group_runs

EVIL = "<img src=x onerror=alert(1)>|`"
MEANS = {"Luna-16": 56.95}
TITLES = {"text": "Text", "image": "Image"}
PUBLISHED = {
    "text": [{"model": "Other", "source": "a table", "accuracy": 64.27}],
    "image": [{"model": "Lost", "source": EVIL, "accuracy": None}],
}


def run(name, task="text", accuracy=0.8, seed=0, attention="luna", **fields):
    title = {"luna": "Luna", "softmax": "Softmax attention"}[attention]
    results = {
        "title": f"{title} on {TITLES[task]}",
        "task": task,
        "attention": attention,
        "data": f"{task} files",
        "test": {
            "accuracy": accuracy,
            "interval_95": [accuracy - 0.02, accuracy + 0.02],
        },
        "reference_lines": {"majority": 0.5, "tf_idf": 0.89},
        "groups": {
            "by": "class",
            "entries": {EVIL: {"accuracy": 0.75, "examples": 1234}},
        },
        "classes": ["neg", EVIL],
        "confusion": [[7, 1], [2, 6543]],
        "parameters": 98765,
        "steps": 1500,
        "training_seconds": 1200.0,
        "steps_per_second": 1.25,
        "examples_per_second": 40.0,
        "peak_memory_bytes": 3 * 2**30,
        "device": EVIL,
    }
    return Run(
        name=name,
        results=results,
        recipe={"task": task, "attention": attention, "seed": seed, **fields},
        environment=[{"command": [EVIL]}],
        history={
            "train_seconds": [60.0, 120.0],
            "validation_accuracy": [0.6, 0.7],
        },
        pictures={"Curves": b"\x89PNG"},
        attention=[
            {
                "document": 1,
                "label": 1,
                "prediction": 0,
                "tokens": ["good ", EVIL],
                "lifts": [0.1, 1.9],
                "slots": {"3": [1.9, 0.1]},
            }
        ],
    )


@pytest.fixture(scope="module")
def groups():
    return group_runs(
        [
            run("a", accuracy=0.80, seed=0),
            run("picture", "image", accuracy=0.3),
            run("b", accuracy=0.82, seed=1),
            run("c", accuracy=0.84, seed=2),
            run(EVIL, accuracy=0.7, attention="softmax"),
        ]
    )


class TestGroups:
    def test_runs_that_differ_in_their_seed_alone(self, groups):
        assert [(g.task, g.label, len(g.runs)) for g in groups] == [
            ("text", "Luna", 3),
            ("text", "Softmax attention", 1),
            ("image", "Luna", 1),
        ]

    def test_the_interval_of_a_mean_over_seeds(self, groups):
        # Half width 4.30 · 0.02 / sqrt(3) = 0.0497.
        low, high = groups[0].interval()
        assert (low, high) == pytest.approx((0.7703, 0.8697), abs=1e-3)

    def test_the_interval_of_a_single_run(self, groups):
        assert groups[1].interval() == pytest.approx((0.68, 0.72))

    def test_labels_name_what_differs(self):
        made = group_runs(
            [
                run("a", sequence_length=1024, cache_dir="x"),
                run("b", sequence_length=4096, cache_dir="y"),
                run("c", sequence_length=4096, attention="softmax"),
            ]
        )
        assert [group.label for group in made] == [
            "Luna, sequence_length=1024",
            "Luna, sequence_length=4096",
            "Softmax attention, sequence_length=4096",
        ]

    def test_other_data_and_the_same_seed_are_no_further_seed(self):
        made = group_runs(
            [
                run("a", data_dir="x"),
                run("b", data_dir="y"),
                run("a again", data_dir="x"),
            ]
        )
        assert [[r.name for r in g.runs] for g in made] == [
            ["a"],
            ["b"],
            ["a again"],
        ]


class _Tags(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


class TestPage:
    @pytest.fixture(scope="class")
    def page(self, groups):
        return lra_page.to_html(groups, PUBLISHED, TITLES, MEANS)

    def test_loads_nothing_and_runs_nothing(self, page):
        parser = _Tags()
        parser.feed(page)
        names = {tag for tag, _ in parser.tags}
        assert "script" not in names and "link" not in names
        sources = [a["src"] for tag, a in parser.tags if tag == "img"]
        assert sources
        assert all(s.startswith("data:image/png;base64,") for s in sources)
        assert not any("onerror" in a for _, a in parser.tags)
        assert EVIL not in page
        assert html.escape(EVIL) in page

    @pytest.mark.parametrize(
        "figure",
        [
            "82.0 %",
            "95 % interval 77.0 % to 87.0 %, mean of 3 seeds; text files",
            "Luna-16 56.95 %",
            "<td>82.0 %</td><td>30.0 %</td>",
            "64.27 %",
            "published: a table",
            "not learnt",
            "89.0 %",
            "TF-IDF and logistic regression",
            "6,543",
            "20.0 min",
            "3.0 GiB",
            "98,765",
            "second document",
            "1,234",
        ],
    )
    def test_shows(self, page, figure):
        assert figure in page

    def test_tasks_come_once(self, page):
        assert page.count("<h2>") == 2

    def test_markdown_has_the_same_tables(self, groups):
        text = lra_page.to_markdown(groups, PUBLISHED, TITLES, MEANS)
        for figure in ("82.0 %", "64.27 %", "89.0 %", "20.0 min", "3.0 GiB"):
            assert figure in text
        assert EVIL not in text
        for line in text.splitlines():
            if line.startswith("|"):
                columns = line.replace("\\|", "").count("|") - 1
                assert columns in (3, 10), line


def test_published_rows():
    rows = {row.model: row for row in published("pathx")}
    assert rows["Luna-256"].accuracies["pathx"] is None
    assert rows["Mega"].accuracies["pathx"] == 97.98
    # The averages that the paper prints over the first five tasks.
    five = ("listops", "text", "retrieval", "image", "pathfinder")
    for model, average in (
        ("Luna-256", 61.95),
        ("Transformer, rerun", 59.24),
        ("Performer", 51.41),
        ("BigBird", 55.01),
        ("Linformer", 51.36),
    ):
        values = [rows[model].accuracies[task] for task in five]
        assert np.mean(values) == pytest.approx(average, abs=0.006)
    with pytest.raises(ValueError, match="task must be one of"):
        published("chess")
