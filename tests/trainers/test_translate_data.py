"""Where a translation run takes its sentences from, and what it refuses."""

import gzip

import numpy as np
import pytest
from luna_tf.trainers import translate_data
from luna_tf.trainers.translate_data import Tokens
from translation_runs import TINY, call, read_recipe, short_pairs, write_tsv

from luna_tf.data import parallel
from luna_tf.training.recipes import RecipeError

PAIRS = [(f"one {i}", f"uno {i}") for i in range(8)]
GROUPED = {"validation_groups": "B", "test_groups": "C"}
APART = {"validation_groups": None, "test_groups": None, "group_column": None}


@pytest.fixture
def tsv(tmp_path):
    return write_tsv(tmp_path / "pairs.tsv", PAIRS)


def load(**changed):
    return translate_data.load_pairs(read_recipe("quick", **changed))


def write(path, lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf8")
    return str(path)


class TestPlaces:
    def test_groups_of_one_file(self, tsv, capsys):
        read = load(train_data=str(tsv), **GROUPED)
        assert [len(read[n]) for n in ("train", "validation", "test")] == [
            6,
            1,
            1,
        ]
        assert read["validation"].sources == ["one 1"]
        assert read["test"].targets == ["uno 5"]
        assert "Data: 6 + 1 + 1 pairs to train" in capsys.readouterr().out

    def test_gzip_pattern_columns_and_fewer_pairs(self, tsv, tmp_path):
        packed = tmp_path / "more.gz"
        packed.write_bytes(gzip.compress(tsv.read_bytes()))
        read = load(
            train_data=f"{tmp_path}/*.tsv, {packed}",
            source_column="es",
            target_column="en",
            max_train_pairs=7,
            **GROUPED,
        )
        assert read["train"].sources[:2] == ["uno 0", "uno 2"]
        assert [len(read[n]) for n in ("train", "test")] == [7, 2]

    def test_aligned_files(self, tmp_path):
        names = {}
        for name, count in (("train", 5), ("dev", 2), ("test", 1)):
            sides = zip(*PAIRS[:count], strict=True)
            names[name] = "::".join(
                write(tmp_path / f"{name}.{language}", side)
                for language, side in zip(("en", "es"), sides, strict=True)
            )
        read = load(
            train_data=names["train"],
            validation_data=names["dev"],
            test_data=names["test"],
            **APART,
        )
        assert [len(read[n]) for n in read] == [5, 2, 1]
        assert read["train"].targets == [target for _, target in PAIRS[:5]]

    def test_files_of_their_own_go_before_groups(self, tsv, tmp_path):
        # Without the column of groups, which they do not need.
        dev = write(tmp_path / "dev.tsv", ["en\tes", "a\tb"])
        read = load(
            train_data=str(tsv),
            validation_data=dev,
            test_data=dev,
            validation_groups="Mark",
        )
        assert [len(read[n]) for n in read] == [8, 1, 1]
        read = load(train_data=str(tsv), validation_data=dev, test_groups="B,C")
        assert len(read["train"]) == 6
        assert read["validation"].sources == ["a"]
        assert read["test"].sources == ["one 1", "one 5"]

    def test_the_sample_is_there_by_default(self, capsys):
        read = load()
        assert len(read["test"]) == 85  # all of Ruth
        assert min(len(read[n]) for n in ("train", "validation")) > 500

    def test_numbered_columns_without_a_header(self, tmp_path):
        path = write(tmp_path / "p.tsv", ["a\tb", "c\td"])
        read = load(
            train_data=path,
            validation_data=path,
            test_data=path,
            source_column="2",
            target_column="1",
        )
        assert read["train"].sources == ["b", "d"]


class TestMalformed:
    def test_an_empty_side_is_told_or_left_out(self, tmp_path, capsys):
        pairs = [*PAIRS, ("", "nada"), ("nothing", " "), ("", "")]
        path = str(write_tsv(tmp_path / "gaps.tsv", pairs))
        with pytest.raises(RecipeError) as error:
            load(train_data=path, **GROUPED)
        assert "gaps.tsv, line 10: the source is empty" in str(error.value)
        assert "--skip_malformed leaves such pairs out" in str(error.value)
        read = load(train_data=path, skip_malformed=True, **GROUPED)
        assert len(read["train"]) == 6
        assert "; 3 malformed ones left out" in capsys.readouterr().out

    @pytest.mark.parametrize("header", [True, False])
    def test_other_columns_are_told_or_left_out(self, tmp_path, capsys, header):
        lines = ["en\tes"] * header + ["a\tb", "c", "d\te\tf", "", "g\th"]
        path = write(tmp_path / "p.tsv", lines)
        data = {f"{n}_data": path for n in ("train", "validation", "test")}
        if not header:
            data |= {"source_column": "1", "target_column": "2"}
        message = f"line {2 + header}: 1 columns, where .* has 2.*--skip_malf"
        with pytest.raises(RecipeError, match=message):
            load(**data, **APART)
        read = load(**data, **APART, skip_malformed=True)
        assert read["train"].sources == ["a", "g"]
        assert read["train"].targets == ["b", "h"]
        assert "; 9 malformed ones left out" in capsys.readouterr().out

    def test_left_out_pairs_of_all_files_are_counted(self, tmp_path, capsys):
        path = write(tmp_path / "p.tsv", ["en\tes", "a\tb", "\tc"])
        data = {f"{n}_data": path for n in ("train", "validation", "test")}
        load(**data, skip_malformed=True, **APART)
        assert "; 3 malformed ones left out" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"source_column": "de"}, "no column 'de' .source_column.*'en'"),
            ({"group_column": "part"}, "no column 'part' .group_column"),
            ({"test_groups": "D"}, "test_groups has 'D'; there are A, B, C"),
            ({"test_groups": "B"}, "groups both have B"),
            ({"test_groups": "A,C"}, "leave nothing to train on"),
            ({"train_data": "/nowhere/*.tsv"}, "there is no file /nowhere/"),
            ({"train_data": "/"}, "is a folder, not a file"),
            ({"test_data": "/x::/y"}, "there is no file /x"),
        ],
    )
    def test_is_refused_by_name(self, tsv, changed, message):
        with pytest.raises(RecipeError, match=message):
            load(**{"train_data": str(tsv), **GROUPED, **changed})

    def test_files_that_are_not_aligned(self, tmp_path):
        one = write(tmp_path / "one", ["a", "b"])
        other = write(tmp_path / "other", ["c"])
        data = {f"{n}_data": f"{one}::{other}" for n in ("train", "test")}
        with pytest.raises(RecipeError, match="one has 2 lines, but .*has 1"):
            load(**data, validation_data=one, **APART)


@pytest.fixture(scope="module")
def vocabulary():
    sides = [side for pair in short_pairs() for side in pair]
    return parallel.Vocabulary(parallel.train_vocabulary(sides, 400))


class TestBatches:
    @pytest.fixture(scope="class")
    def tokens(self, vocabulary):
        sources, targets = zip(*short_pairs(), strict=True)
        pairs = parallel.Pairs(list(sources), list(targets))
        return translate_data.encode(pairs, vocabulary)

    def test_the_first_of_them(self, tokens):
        first = tokens.first(3)
        assert isinstance(first, Tokens)
        assert len(first.pairs) == len(first.source) == len(first.target) == 3
        for whole, part in (
            (tokens.source, first.source),
            (tokens.target, first.target),
        ):
            for i in range(3):
                np.testing.assert_array_equal(whole[i], part[i])
        assert len(tokens.first(1000).pairs) == 64

    def test_rows_suit_eight_replicas_however_many_there_are(self, tokens):
        recipe = read_recipe("quick", max_length=32, tokens_per_batch=1000)
        for replicas in (1, 2, 8):
            shapes = translate_data.choose_shapes(recipe, tokens, replicas)
            assert shapes[-1].source_length <= 32
            assert all(shape.rows % 8 == 0 for shape in shapes)
            assert shapes == translate_data.choose_shapes(recipe, tokens, 1)

    def test_what_is_too_long_is_left_out_or_cut(self, tokens):
        recipe = read_recipe("quick", max_length=16, tokens_per_batch=256)
        shapes = translate_data.choose_shapes(recipe, tokens, 1)
        long = np.maximum(tokens.source.lengths, tokens.target.lengths) >= 16
        assert 0 < long.sum() < 64
        source, filled = translate_data.make_source(tokens, shapes, "drop")
        assert source.size == 64 - long.sum()
        text = translate_data.describe(filled, "train on")
        assert f"; {long.sum()} pairs are too long" in text
        source, _ = translate_data.make_source(tokens, shapes, "cut")
        assert source.size == 64

    def test_validation_pairs_longer_than_all_training_pairs(self, tokens):
        recipe = read_recipe("quick", max_length=32, tokens_per_batch=256)
        train, short = tokens.first(4), tokens.first(8)
        shapes = translate_data.choose_shapes(recipe, train, 1)
        last = shapes[-1].source_length, shapes[-1].target_length
        assert max(last) < 32
        ids = [np.arange(4, 4 + n) for n in (2, 28, 90)]
        lists = parallel.TokenLists.of(ids)
        other = Tokens(short.pairs, lists, parallel.TokenLists.of(ids[:1] * 3))
        longer = translate_data.validation_shapes(recipe, shapes, other, 1)
        # Training keeps its shapes, and what is beyond max_length is cut.
        assert longer[:-1] == shapes
        assert longer[-1] == parallel.Shape(32, last[1], 8)
        source, filled = translate_data.make_source(other, longer, "cut")
        (batch,) = [s.gather([0, 1]) for s in source.sources if s.size == 2]
        found = batch["encoder_token_ids"].numpy()
        np.testing.assert_array_equal(found[0, :29], [*ids[1], 2])
        np.testing.assert_array_equal(found[1], [*ids[2][:31], 2])
        assert filled.num_too_long == 1

        fitting = tokens.first(2)
        same = translate_data.validation_shapes(recipe, shapes, fitting, 1)
        assert same == shapes

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"tokens_per_batch": 64}, "8 rows of 32 tokens need 256"),
            ({"max_length": 8, "tokens_per_batch": 64}, "no pair fits into 8"),
        ],
    )
    def test_sizes_that_do_not_fit(self, tokens, changed, message):
        recipe = read_recipe("quick", **{"max_length": 32, **changed})
        short = tokens if "max_length" not in changed else _long_ones(tokens)
        with pytest.raises(RecipeError, match=message):
            translate_data.choose_shapes(recipe, short, 1)


def _long_ones(tokens):
    lengths = np.arange(8, 12)
    lists = parallel.TokenLists.of([[5] * n for n in lengths])
    return Tokens(tokens.pairs, lists, lists)


class TestBeforeTheRun:
    """The same through the command line: nothing has been written yet."""

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ("--source_column=de", "has no column 'de' (source_column)"),
            ("--test_groups=Mark", "test_groups has 'Mark'; there are"),
            ("--train_data=/nowhere.tsv", "there is no file /nowhere.tsv"),
            ("--vocabulary_size=90000", "size 90,000 cannot be filled: these"),
            ("--vocabulary_size=200", "size 200 is too small: special tokens"),
            ("--tokens_per_batch=128", "8 rows of 32 tokens need 256"),
            ("--checkpoint_every=3", "must divide checkpoint_every"),
        ],
    )
    def test_is_told_at_once(self, tmp_path, capsys, arguments, message):
        data = write_tsv(tmp_path / "pairs.tsv", short_pairs())
        folder = tmp_path / "run"
        places = f"--train_data={data}", f"--model_dir={folder}"
        assert call(*TINY, *places, *arguments.split()) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.startswith("luna-translate: ")
        assert "Traceback" not in error
        names = (
            {path.name for path in folder.iterdir()}
            if (folder.exists())
            else set()
        )
        assert not names - {"vocabulary.model", "vocabulary.model.json"}
