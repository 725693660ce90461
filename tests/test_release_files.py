"""The authors' files: one that would run something, a truncated one and a wrong one are refused in
a sentence.
"""
import os

import pytest
import torch

from lgm_nb.base.errors import UserError
from lgm_nb.base.files import read_pickle
from lgm_nb.release.authors_lora import load_authors_lora
from lgm_nb.release.files import as_authors, synthetic_release
from lgm_nb.release.interop import (
    load_authors_generator,
    load_authors_latents,
    load_authors_patterns,
    load_authors_tokenizer,
    tokenizer_from_authors,
)

LOADERS = dict(tokenizer=load_authors_tokenizer, generator=load_authors_generator,
               lora=lambda path: load_authors_lora(path, 16), patterns=load_authors_patterns,
               stats=lambda path: load_authors_latents(path.parent))


def test_what_must_be_refused(tmp_path):
    made, harm = synthetic_release(tmp_path), tmp_path / "harm"
    class Passenger:
        def __reduce__(self): return os.system, (f"touch {harm}",)
    for kind, load in LOADERS.items():
        good = made[kind].read_bytes()
        torch.save(read_pickle(made[kind]) | {"passenger": Passenger()}, made[kind])
        with pytest.raises(UserError, match="system"): load(made[kind])
        assert not harm.exists()
        made[kind].write_bytes(good[:len(good) // 2])
        with pytest.raises(UserError, match="no whole PyTorch file"): load(made[kind])
        made[kind].write_bytes(good)
        load(made[kind])
    state = as_authors(load_authors_tokenizer(made["tokenizer"]))
    lacking = {n: t for n, t in state.items()
               if "norm2" not in n} | {"encoder.model.reg_token": torch.zeros(1)}
    with pytest.raises(UserError, match="missing .* unknown"): tokenizer_from_authors(lacking)
    held = read_pickle(made["patterns"])
    held[16] = (held[16][0], held[16][1] + 1)
    torch.save(held, made["patterns"])
    with pytest.raises(UserError, match="sizes stored beside it"):
        load_authors_patterns(made["patterns"])
    with pytest.raises(UserError, match="no stored pattern"):
        load_authors_latents(made["latents"]).pattern(8)
