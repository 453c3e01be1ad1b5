"""Reads tensors from PyTorch's files, without PyTorch and without its risks.

Such a file holds a pickle, and a pickle may name any function to be called.
Here every name stands for one of a few harmless things: rebuilding a tensor, a
dictionary, a namespace; or else for an object that takes whatever it is given
and does nothing. No code of the file runs.
"""

from __future__ import annotations

import collections
import dataclasses
import io
import pickle
import zipfile
from typing import Any, BinaryIO

import numpy as np

# Storage classes of torch to numpy's types; bfloat16 has none.
_STORAGES: dict[str, Any] = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": "bfloat16",
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
# How the older of the two formats begins.
_MAGIC = 0x1950A86A20F9469CFC6C


class TorchFileError(ValueError):
    """A file that is not PyTorch's, or is damaged."""


class Namespace:
    """Attributes of an `argparse.Namespace` and its like, in `vars`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(
                {k: v for k, v in state.items() if isinstance(k, str)}
            )


class _Inert(dict):
    """Stands for whatever is not known: takes everything, does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _Inert()

    def append(self, item: Any) -> None:
        pass

    def extend(self, items: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass


@dataclasses.dataclass(frozen=True)
class _Storage:
    kind: Any
    key: str
    size: int


class _Lazy:
    """A tensor whose numbers are not read yet."""

    def __init__(
        self,
        storage: Any,
        offset: Any = 0,
        shape: Any = (),
        strides: Any = (),
        *_: Any,
    ) -> None:
        if not isinstance(storage, _Storage):
            raise TorchFileError("a tensor without numbers.")
        self.storage = storage
        self.offset = int(offset)
        self.shape = tuple(int(n) for n in shape)
        self.strides = tuple(int(n) for n in strides)

    def __setstate__(self, state: Any) -> None:
        pass

    def array(self, content: bytes) -> np.ndarray:
        """The numbers, as a copy."""
        kind = self.storage.kind
        width = np.dtype("<u2") if kind == "bfloat16" else kind
        numbers = np.frombuffer(content, width)
        last = self.offset + sum(
            (n - 1) * step
            for n, step in zip(self.shape, self.strides, strict=True)
        )
        if 0 in self.shape:
            return np.zeros(self.shape, "float32")
        steps_are_sound = min(self.strides, default=0) >= 0
        if self.offset < 0 or not steps_are_sound or last >= len(numbers):
            raise TorchFileError(
                f"a tensor of shape {self.shape} has only {len(numbers):,} "
                "numbers."
            )
        view = np.lib.stride_tricks.as_strided(
            numbers[self.offset :],
            self.shape,
            [step * width.itemsize for step in self.strides],
        )
        if kind == "bfloat16":
            return (view.astype("<u4") << 16).view("<f4").copy()
        return view.copy()


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


class _Unpickler(pickle.Unpickler):
    """An unpickler that can call nothing but the few names here.

    `storages` has what tensors refer to, also those inside of objects that are
    not kept.
    """

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch._utils":
            if name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
                return _Lazy
            if name == "_rebuild_parameter":
                return _rebuild_parameter
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if name in ("Namespace", "AttrDict"):
            return Namespace
        return _Inert

    def persistent_load(self, pid: Any) -> Any:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise TorchFileError(f"an unknown kind of reference: {pid!r}.")
        kind, key, _, size = pid[1:5]
        if not isinstance(kind, (np.dtype, str)):
            raise TorchFileError("a tensor of an unknown type.")
        storage = _Storage(kind, str(key), int(size))
        return self.storages.setdefault(storage.key, storage)


def read_torch_file(path: str) -> Any:
    """Reads what `torch.save` wrote, with arrays in place of tensors.

    Both formats are read, that of today (a zip archive) and that of PyTorch
    before 1.6. Objects of unknown classes become empty ones.

    Args:
        path: a local file.

    Returns:
        Dictionaries, lists, numbers and text as in the file; numpy arrays,
        bfloat16 as float32; a `Namespace` for arguments of a program.

    Raises:
        TorchFileError: the file is not PyTorch's, or is damaged.
        OSError: it cannot be read.

    Example:

    >>> import pickle
    >>> import zipfile
    >>> saved = pickle.dumps({"epoch": 3, "model": {}}, protocol=2)
    >>> with zipfile.ZipFile("checkpoint.pt", "w") as file:
    ...     file.writestr("checkpoint/data.pkl", saved)  # as torch.save does
    >>> read_torch_file("checkpoint.pt")
    {'epoch': 3, 'model': {}}
    """
    try:
        if zipfile.is_zipfile(path):
            return _read_zip(path)
        with open(path, "rb") as file:
            return _read_legacy(file)
    except TorchFileError as error:
        raise TorchFileError(f"{path}: {error}") from None
    except OSError:
        raise
    except Exception as error:  # a pickle can be damaged in any way
        raise TorchFileError(
            f"{path} is not a file of PyTorch, or is damaged: "
            f"{type(error).__name__}: {error}"
        ) from error


def _read_zip(path: str) -> Any:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        pickles = [n for n in names if n.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise TorchFileError("it holds no data.pkl.")
        root = pickles[0][: -len("data.pkl")]
        order = f"{root}byteorder"
        if order in names and archive.read(order) != b"little":
            raise TorchFileError("its numbers are big-endian.")
        found = _Unpickler(io.BytesIO(archive.read(pickles[0]))).load()
        contents: dict[str, bytes] = {}

        def content(storage: _Storage) -> bytes:
            if storage.key not in contents:
                name = f"{root}data/{storage.key}"
                # A compressed file could unpack to any size.
                if archive.getinfo(name).file_size > 8 * storage.size + 64:
                    raise TorchFileError(f"{name} is too large.")
                contents[storage.key] = archive.read(name)
            return contents[storage.key]

        return _resolved(found, content)


def _read_legacy(file: BinaryIO) -> Any:
    if _Unpickler(file).load() != _MAGIC:
        raise TorchFileError("it does not begin as files of PyTorch do.")
    _Unpickler(file).load()  # version of the format
    info = _Unpickler(file).load()
    if not info.get("little_endian", True):
        raise TorchFileError("its numbers are big-endian.")
    unpickler = _Unpickler(file)
    found = unpickler.load()
    keys = [str(key) for key in _Unpickler(file).load()]
    contents = {}
    for key in keys:
        size = int.from_bytes(file.read(8), "little")
        if key not in unpickler.storages:
            raise TorchFileError(f"nothing uses its storage {key}.")
        kind = unpickler.storages[key].kind
        width = 2 if kind == "bfloat16" else kind.itemsize
        contents[key] = file.read(size * width)
        if len(contents[key]) != size * width:
            raise TorchFileError("it is cut off.")
    return _resolved(found, lambda storage: contents[storage.key])


def _resolved(value: Any, content: Any) -> Any:
    if isinstance(value, _Lazy):
        return value.array(content(value.storage))
    if isinstance(value, Namespace):
        vars(value).update(_resolved(dict(vars(value)), content))
        return value
    if isinstance(value, dict):
        return {k: _resolved(v, content) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_resolved(item, content) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value
