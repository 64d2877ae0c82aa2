"""A real encoder-decoder through nn.MultiheadAttention: antibody sequences are numbered as in PyTorch, token by token."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from edgeattn.exporters.capture import capture
from edgeattn.exporters.choose import choose
from edgeattn.exporters.lower import lower
from edgeattn.exporters.passes.unraised import unraised
from edgeattn.exporters.probing import Prover
from edgeattn.exporters.sites import find_sites
from edgeattn.exporters.sources.module import from_module
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import Session
from edgeattn.spec import Causal, Full, SoftmaxAttention

CHAINS = (  # trastuzumab, heavy; adalimumab, light; a part of it, which stays padded
    "EVQLVESGGGLVQPGGSLRLSCAASGFNIKDTYIHWVRQAPGKGLEWVARIYPTNGYTRYADSVKGRFTISADTSKNTAYLQMNSLRAEDTAVYYCSRWGGDGFYAMDYWGQGTLVTVSS",
    "DIQMTQSPSSLSASVGDRVTITCRASQGIRNYLAWYQQKPGKAPKLLIYAASTLQSGVPSRFSGSGSGTDFTLTISSLQPEDVATYYCQRYNRAPYTFGQGTKVEIK",
    "DIQMTQSPSSLSASVGDRVTITCRASQGIRNYLAWYQQKPGKAPKLLIYAAS",
)
TOKENS = ("<PAD>", "<SOS>", "<EOS>", "<SKIP>", *"ACDEFGHIKLMNPQRSTVWXY")
LONGEST = 210
"""Positions that the model has learned."""


class Numbering(nn.Module):
    """Logits of the next number, (B, T, 136), from a sequence (B, S) and the numbers so far (B, T); 0 is padding."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, src: Tensor, trg: Tensor) -> Tensor:
        model: Any = self.model
        hidden = model.make_src_mask(src)
        padded, future = model.make_trg_mask(trg)
        logits: Tensor = model.decoder(trg, model.encoder(src, hidden), padded, future, hidden)[0]
        return logits


def _package() -> Path:
    spec = importlib.util.find_spec("anarcii")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the demo model is not installed; pip install --no-deps -r requirements-demo.txt")
    return Path(spec.submodule_search_locations[0])


def _numbering() -> Numbering:
    """The published weights, without importing the package and what it needs."""
    folder = _package()
    spec = importlib.util.spec_from_file_location("anarcii_model", folder / "inference" / "model.py")
    assert spec is not None
    assert spec.loader is not None
    code: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)
    said = json.loads((folder / "models" / "antibody" / "antibody_4_2_128_512.json").read_text())
    width, layers, heads = said["HID_DIM"], said["LAYERS"], said["HEADS"]
    sizes = (width, layers, heads, 4 * width, said["DROPOUT"], "cpu")
    model = code.S2S(code.Encoder(said["INPUT_DIM"], *sizes), code.Decoder(said["OUTPUT_DIM"], *sizes), 0, 0, "cpu")
    weights = folder / "models" / "antibody" / "antibody_4_2_128_512.pt"
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return Numbering(model).eval()


def _encoded() -> Tensor:
    rows = [[1, *(TOKENS.index(letter) for letter in chain), 2] for chain in CHAINS]
    return torch.tensor([row + [0] * (max(map(len, rows)) - len(row)) for row in rows])


def _greedy(
    logits: Callable[[np.ndarray[Any, Any], np.ndarray[Any, Any]], np.ndarray[Any, Any]], steps: int
) -> list[list[int]]:
    """Numbers of every chain, the whole of what is there so far being read again at each step."""
    src = _encoded().numpy()
    numbers = src[:, :1]
    for _ in range(steps):
        numbers = np.concatenate([numbers, logits(src, numbers)[:, -1].argmax(-1)[:, None]], axis=1)
    return [[int(number) for number in row] for row in numbers]


def _capture(module: Numbering) -> ir.Model:
    """As `edgeattn.export` captures it. Its gate is another matter: float32 itself moves these logits by 0.01."""
    src = _encoded()
    dynamic = {
        "src": {0: "batch", 1: torch.export.Dim("residues", max=LONGEST)},
        "trg": {0: "batch", 1: torch.export.Dim("numbers", max=LONGEST)},
    }
    return capture(from_module(module, {"src": src, "trg": src[:, :7]}, dynamic), ["output"])


@pytest.mark.slow
def test_greedy_numbering_is_identical_on_both_runtimes(tmp_path: Path) -> None:
    module = _numbering()
    model = _capture(module)
    padded, causal = (SoftmaxAttention(4, 4, 32, mask="key_padding", pattern=pattern) for pattern in (Full(), Causal()))
    sites = find_sites(model)
    assert [site.spec for site in sites] == [padded, padded, causal, padded, causal, padded]
    assert unraised(model) == []

    def in_torch(src: np.ndarray[Any, Any], trg: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        with torch.inference_mode():
            logits: np.ndarray[Any, Any] = module(torch.from_numpy(src), torch.from_numpy(trg)).numpy()
        return logits

    steps = _encoded().shape[1]
    expected = _greedy(in_torch, steps)
    assert [len(set(row)) > 30 for row in expected] == [True] * 3  # numbers, not one token again and again
    limits = {"residues": LONGEST, "numbers": LONGEST}
    for name in ("onnxruntime", "openvino"):
        runtime, prover = registry.get(name), Prover(tmp_path)
        choices = {site.name: choose(site.core(limits), runtime, "cpu", prover).lowering for site in sites}
        ir.save(lower(model, choices, limits), tmp_path / f"{name}.onnx")
        with runtime.load(tmp_path / f"{name}.onnx") as session:

            def in_session(src: Any, trg: Any, session: Session = session) -> np.ndarray[Any, Any]:
                return np.asarray(session.run({"src": src, "trg": trg})["output"])

            assert _greedy(in_session, steps) == expected
