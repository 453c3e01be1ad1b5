"""Named special tokens of a tokenizer, by public names of KerasHub only."""

from typing import Any

ROLES = ("start", "end", "pad", "mask")


class SpecialTokens:
    """A tokenizer of which a task knows the special tokens.

    KerasHub's own way to declare them is private. This one needs the two
    properties that tasks read, and the attributes `<role>_token` and
    `<role>_token_id`. It comes before the tokenizer class of KerasHub, whose
    constructor runs between `_name_special_tokens` and the first vocabulary.
    """

    _roles: tuple[str, ...] = ()
    # What stands for whatever is not in the vocabulary.
    unknown_token: str | None = "<unk>"
    unknown_token_id: int | None = None

    def _name_special_tokens(self, **tokens: str | None) -> None:
        """Sets what the tokens of some of `ROLES` are; None: there is none."""
        self._roles = tuple(r for r in ROLES if tokens.get(r) is not None)
        for role in self._roles:
            setattr(self, f"{role}_token", tokens[role])
            setattr(self, f"{role}_token_id", None)

    def _number_special_tokens(self, ids: Any, argument: str) -> None:
        """Looks up their ids.

        Args:
            ids: dict of token to id, or None without a vocabulary.
            argument: name of the argument that brought the vocabulary.

        Raises:
            ValueError: if the vocabulary lacks one of them.
        """
        missing = [
            t for t in self.special_tokens if ids is not None and t not in ids
        ]
        if missing:
            names = " and ".join(
                [", ".join(f"`{r}_token`" for r in self._roles[:-1])]
                + [f"`{self._roles[-1]}_token`"]
            )
            raise ValueError(
                f"`{argument}` must have the special tokens of {names}. "
                f"Missing: {missing}"
            )
        for role in self._roles:
            token = getattr(self, f"{role}_token")
            number = None if ids is None else int(ids[token])
            setattr(self, f"{role}_token_id", number)
        self.unknown_token_id = None
        if ids is not None and self.unknown_token in ids:
            self.unknown_token_id = int(ids[self.unknown_token])

    @property
    def special_tokens(self) -> list[str]:
        """The special tokens, each once."""
        return sorted({getattr(self, f"{role}_token") for role in self._roles})

    @property
    def special_token_ids(self) -> list[int]:
        """The ids of the special tokens, each once."""
        ids = {getattr(self, f"{role}_token_id") for role in self._roles}
        if None in ids:
            raise ValueError("The vocabulary must be set first. Got: None")
        return sorted(ids)

    @property
    def unguessable_token_ids(self) -> list[int]:
        """Those of tokens that no blank stands for: special and unknown."""
        ids = set(self.special_token_ids)
        if self.unknown_token_id is not None:
            ids.add(self.unknown_token_id)
        return sorted(ids)

    def _special_token_config(self) -> dict[str, str]:
        return {f"{r}_token": getattr(self, f"{r}_token") for r in self._roles}
