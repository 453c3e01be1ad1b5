"""Made the files beside it, with PyTorch 1.13 (Debian python3-torch).

They hold the weights of `../luna/mlm_tied.npz` as fairseq would save them, in
both formats of `torch.save`, and tensors of several kinds. Run it as
`python3 make.py` in this folder; it needs torch and numpy.
"""

import argparse
import collections
import datetime
import json

import numpy as np
import torch

with np.load("../luna/mlm_tied.npz") as z:
    meta = json.loads(str(z["meta"]))
    weights = {k[2:]: z[k].tolist() for k in z.files if k.startswith("w/")}
state = collections.OrderedDict(
    (name, torch.tensor(values)) for name, values in weights.items()
)
table = state["encoder.sentence_encoder.embed_tokens.weight"]
state["encoder.lm_head.weight"] = table
state["encoder.sentence_encoder.version"] = torch.tensor([3.0])
checkpoint = {
    "args": argparse.Namespace(
        arch="luna_base_tied_512",
        encoder_attention_heads=meta["num_heads"],
        activation_fn=meta["activation"],
        dropout=0.1,
        attention_dropout=0.1,
        activation_dropout=0.0,
        tokens_per_sample=meta["max_positions"],
        save_dir="x",
    ),
    "model": state,
    "optimizer_history": [{"criterion_name": "MaskedLmLoss", "num_updates": 5}],
    "task_state": {},
    # Of a class that the reader does not know.
    "extra_state": {"epoch": 1, "when": datetime.timedelta(seconds=3)},
    "last_optimizer_state": None,
}
torch.save(checkpoint, "mlm_zip.pt")
torch.save(checkpoint, "mlm_legacy.pt", _use_new_zipfile_serialization=False)
kinds = {
    "half": torch.tensor([[1.5, 2.5], [3.0, -4.0]]).half().t(),
    "bf": torch.tensor([1.0, -2.5, 3.140625]).bfloat16(),
    "i": torch.arange(6).reshape(2, 3)[:, 1:],
    "p": torch.nn.Parameter(torch.tensor([7.0])),
    "b": torch.tensor([True, False]),
}
torch.save(kinds, "kinds.pt")
