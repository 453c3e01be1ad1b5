"""Tokenizers of a run: read, learned, kept in its folder."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from typing import Any

from luna_tf.training import files
from luna_tf.training.recipes import RecipeError

from . import session

TOKENIZER = "tokenizer"
_ORIGIN = "tokenizer.origin.json"


def read(path: str, lowercase: bool = False) -> Any:
    """Reads a tokenizer.

    Args:
        path: a SentencePiece `.model`, a WordPiece `.txt`, or a folder that
            `save` or a preset of ours wrote; `gs://` included.
        lowercase: whether word pieces fold case; the others have it inside.

    Returns:
        A tokenizer of `luna_tf.models`.

    Raises:
        RecipeError: there is none, or it lacks special tokens.
    """
    import tensorflow as tf

    from luna_tf import models

    if lowercase and not path.endswith(".txt"):
        raise RecipeError(
            f"lowercase=true is not possible with vocabulary={path}: allowed "
            "is a WordPiece .txt. The others fold case or not by themselves."
        )

    if not files.exists(path):
        raise RecipeError(
            f"vocabulary={path} does not exist. Allowed is a SentencePiece "
            ".model, a WordPiece .txt, or a folder with a tokenizer."
        )
    try:
        if path.endswith(".model"):
            return models.LunaSentencePieceTokenizer(files.read_bytes(path))
        if path.endswith(".txt"):
            # A piece may be white space of a rare kind, but no new line.
            lines = files.read_text(path).removesuffix("\n").split("\n")
            lines = [line.rstrip("\r") for line in lines]
            return models.LunaWordPieceTokenizer(lines, lowercase=lowercase)
        return _read_folder(path)
    except (
        *(ValueError, OSError, RuntimeError, KeyError),
        tf.errors.OpError,
    ) as error:
        first = str(error).partition("\n")[0]
        raise RecipeError(
            f"vocabulary={path} is not usable: {first}"
        ) from error


def make(learned: bytes | list[str], lowercase: bool) -> Any:
    """The tokenizer of learned subwords.

    Args:
        learned: a SentencePiece model, or word pieces.
        lowercase: whether word pieces fold case; SentencePiece has it inside.
    """
    from luna_tf import models

    if isinstance(learned, bytes):
        return models.LunaSentencePieceTokenizer(learned)
    return models.LunaWordPieceTokenizer(learned, lowercase=lowercase)


def make_bytes(lowercase: bool) -> Any:
    """The tokenizer that needs no vocabulary."""
    from luna_tf import models

    return models.LunaByteTokenizer(lowercase=lowercase)


def _read_folder(path: str) -> Any:
    import keras

    from luna_tf import models

    models.import_all()
    config_path = files.join(path, "tokenizer.json")
    if not files.exists(config_path):
        raise ValueError("the folder has no tokenizer.json.")
    config = json.loads(files.read_text(config_path))
    tokenizer = keras.saving.deserialize_keras_object(config)
    assets = files.join(path, "assets", "tokenizer")
    with tempfile.TemporaryDirectory() as local:
        for name in getattr(tokenizer, "file_assets", None) or ():
            content = files.read_bytes(files.join(assets, name))
            with open(os.path.join(local, name), "wb") as file:
                file.write(content)
        if os.listdir(local):
            tokenizer.load_assets(local)
    return tokenizer


def read_of_run(folder: str) -> Any:
    """The tokenizer that a run was trained with.

    Args:
        folder: the model_dir.

    Raises:
        RecipeError: there is none.
    """
    path = files.join(folder, TOKENIZER)
    if not files.exists(path):
        raise RecipeError(f"--model_dir={folder} holds no {TOKENIZER}.")
    return read(path)


def save(tokenizer: Any, path: str) -> None:
    """Writes a tokenizer as presets have it.

    Args:
        tokenizer: of `luna_tf.models`.
        path: folder to write; an older one is replaced.
    """
    files.remove(path)
    files.write_folder_by(path, lambda p: _save(tokenizer, p))


def _save(tokenizer: Any, path: str) -> None:
    # KerasHub's own function writes more, which only a backbone has.
    import keras

    os.makedirs(path, exist_ok=True)
    config = keras.saving.serialize_keras_object(tokenizer)
    with open(os.path.join(path, "tokenizer.json"), "w") as file:
        json.dump(config, file, indent=4)
    assets = os.path.join(path, "assets", "tokenizer")
    os.makedirs(assets, exist_ok=True)
    tokenizer.save_assets(assets)


def digest(tokenizer: Any) -> str:
    """A name for exactly this tokenizer."""
    sha = hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder:
        _save(tokenizer, folder)
        for root, folders, names in os.walk(folder):
            folders.sort()
            for name in sorted(names):
                with open(os.path.join(root, name), "rb") as file:
                    content = file.read()
                if name == "tokenizer.json":
                    config = json.loads(content)["config"]
                    config = {k: v for k, v in config.items() if k != "name"}
                    content = json.dumps(config, sort_keys=True).encode()
                sha.update(name.encode() + b"\0" + content)
    return sha.hexdigest()[:16]


def load_or_learn(folder: str, made_from: dict[str, Any], learn: Any) -> Any:
    """The tokenizer of a run: from its folder if it is there.

    Args:
        folder: the model_dir.
        made_from: what decides it, fit for JSON. With another one before, it
            is learned anew.
        learn: returns a new one.

    Returns:
        A tokenizer of `luna_tf.models`.

    Raises:
        RecipeError: the folder holds a trained model, which could not go on
            with another one.
    """
    path = files.join(folder, TOKENIZER)
    origin = files.join(folder, _ORIGIN)
    text = json.dumps(made_from, indent=1, sort_keys=True) + "\n"
    if files.exists(origin) and files.read_text(origin) == text:
        return read(path)
    given = made_from.get("digest")
    if given and files.exists(path) and digest(read(path)) == given:
        return read(path)
    if files.exists(files.join(folder, session.CHECKPOINTS)):
        raise RecipeError(
            f"--model_dir={folder} holds a model whose subwords are not those "
            "of this text and recipe. Give another folder, or --overwrite to "
            "start anew."
        )
    tokenizer = learn()
    save(tokenizer, path)
    # Last: without it the tokenizer is learned anew.
    files.write_text(origin, text)
    return tokenizer
