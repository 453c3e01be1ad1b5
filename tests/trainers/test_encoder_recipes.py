"""Recipes of luna-mlm and luna-finetune: those shipped, and GLUE's files."""

import numpy as np
import pytest
from luna_tf.trainers import finetune_data, finetune_recipe, mlm_recipe

from luna_tf.training import recipes

PROGRAMS = (mlm_recipe.PROGRAM, finetune_recipe.PROGRAM)
SHIPPED = [
    pytest.param(program, name, id=f"{program.name}-{name}")
    for program in PROGRAMS
    for name in recipes.names(program.folder)
]
# The first lines of files as gluebenchmark.com has them, cut to few columns
# where names find these, and what is read of them.
GLUE = {
    "cola": (
        "gj04\t1\t\tThe sailors rode the breeze.\n"
        "gj04\t0\t*\tThe dog barked out the room.\n",
        "The dog barked out the room.",
        None,
        0,
    ),
    "sst2": (
        'sentence\tlabel\na warm film \t1\nit drags , "slowly \t0\n',
        'it drags , "slowly ',
        None,
        0,
    ),
    "mrpc": (
        "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
        '1\t7\t8\tHe said "no.\tHe refused.\n'
        "0\t9\t3\tIt rained.\tIt was sold.\n",
        "It rained.",
        "It was sold.",
        0,
    ),
    "qqp": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
        "0\t1\t2\tWhy?\tHow come?\t1\n3\tcut off\n"
        "1\t3\t4\tWho?\tWhen?\t0\n",
        "Who?",
        "When?",
        0,
    ),
    "stsb": (
        "index\tgenre\tsentence1\tsentence2\tscore\n"
        "0\tnews\tA plane takes off.\tA plane leaves.\t5.000\n"
        "1\tnews\tA man sings.\tA man eats.\t1.25\n",
        "A man sings.",
        "A man eats.",
        1.25,
    ),
    "mnli": (
        "index\tsentence1\tsentence2\tlabel1\tgold_label\n"
        "0\tIt is day.\tIt is night.\tneutral\tcontradiction\n"
        "1\tIt is dark.\tIt is night.\tneutral\tneutral\n",
        "It is dark.",
        "It is night.",
        1,
    ),
    "qnli": (
        "index\tquestion\tsentence\tlabel\n"
        "0\tWho came?\tAnn came.\tentailment\n"
        "1\tWho left?\tIt rained.\tnot_entailment\n",
        "Who left?",
        "It rained.",
        1,
    ),
    "rte": (
        "index\tsentence1\tsentence2\tlabel\n"
        "0\tAnn sang.\tSomeone sang.\tentailment\n"
        "1\tAnn sang.\tBob sang.\tnot_entailment\n",
        "Ann sang.",
        "Bob sang.",
        1,
    ),
}


def read(program, name, **changed):
    values = recipes.read_yaml(name, program.folder)
    return recipes.build(program.schema, {**values, **changed}, origin=name)


@pytest.mark.parametrize(("program", "name"), SHIPPED)
def test_shipped_recipes_are_valid_and_say_what_to_expect(program, name):
    read(program, name)
    opening = (program.folder / f"{name}.yaml").read_text().split("\n\n")[0]
    for word in ("Source:", "Expected:", "Time:", "Hardware:"):
        assert word in opening, word


def test_all_recipes_are_known():
    names = [set(recipes.names(program.folder)) for program in PROGRAMS]
    assert {"default", "quick"} <= names[0]
    assert {"default", *(f"glue_{task}" for task in GLUE)} == names[1]


@pytest.mark.filterwarnings("ignore:.*skipped 1 malformed")
@pytest.mark.parametrize("task", GLUE)
def test_files_of_glue_are_read_as_they_are(task, tmp_path):
    lines, text, pair, label = GLUE[task]
    path = tmp_path / "train.tsv"
    path.write_text(lines)
    data = {"train_data": str(path), "validation_data": str(path)}
    recipe = read(finetune_recipe.PROGRAM, f"glue_{task}", **data)
    examples = finetune_data.load(recipe)
    last = examples.splits["validation"].part(np.array([-1]))
    assert last.texts == [text.encode()]
    assert last.pairs == ([pair.encode()] if pair else [])
    assert last.labels == [label]
    assert len(examples.class_names) == (0 if task == "stsb" else 2)
