"""Which form a site gets: what was forced if it is proven, else the first default that is."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeattn.errors import LoweringError, UsageError
from edgeattn.exporters.choose import choose
from edgeattn.exporters.lowerings.base import Core
from edgeattn.exporters.lowerings.defaults import DEFAULTS, FALL_BACK, FEW, LONG, candidates
from edgeattn.exporters.lowerings.registry import LOWERINGS
from edgeattn.exporters.probing import Prover
from edgeattn.runtimes import registry
from edgeattn.spec import Causal, SoftmaxAttention

FULL = Core(SoftmaxAttention(2, 2, 8), square=True, max_keys=512)
PADDED = Core(SoftmaxAttention(2, 2, 8, mask="key_padding"), square=True, max_keys=512)
CAUSAL = Core(SoftmaxAttention(2, 2, 8, pattern=Causal()), square=True, max_keys=FEW)
GROUPED = Core(SoftmaxAttention(6, 2, 8, mask="key_padding"), square=True, max_keys=512)
CAPPED = Core(SoftmaxAttention(2, 2, 8, softcap=5.0), square=True, max_keys=8192)
LONG_PADDED = Core(SoftmaxAttention(2, 2, 8, mask="key_padding"), square=True, max_keys=LONG + 1)
LONG_FULL = Core(SoftmaxAttention(2, 2, 8), square=True, max_keys=LONG + 1)
LONG_CAUSAL = Core(SoftmaxAttention(2, 2, 8, pattern=Causal()), square=True, max_keys=FEW + 1)
SHORT_GROUPED = Core(SoftmaxAttention(6, 2, 8, mask="key_padding"), square=True, max_keys=128)
UNBOUNDED = Core(SoftmaxAttention(2, 2, 8), square=True, max_keys=None)


@pytest.fixture(scope="module")
def prover(tmp_path_factory: pytest.TempPathFactory) -> Prover:
    return Prover(tmp_path_factory.mktemp("probes"))


def _choose(core: Core, runtime: str, prover: Prover, forced: str | None = None) -> tuple[str, str]:
    choice = choose(core, registry.get(runtime), "cpu", prover, forced)
    return choice.lowering.name, choice.reason


@pytest.mark.parametrize(
    ("core", "name"),
    [
        (FULL, "attention-23"),
        (PADDED, "attention-23"),
        (GROUPED, "grouped"),
        (LONG_FULL, "contrib-mha"),
        (UNBOUNDED, "contrib-mha"),
        (LONG_PADDED, "blockwise"),
        (CAUSAL, "contrib-gqa"),
        (LONG_CAUSAL, "sliced-23"),
        (CAPPED, "attention-23"),
    ],
)
def test_defaults_on_onnxruntime(core: Core, name: str, prover: Prover) -> None:
    assert _choose(core, "onnxruntime", prover)[0] == name


def test_a_form_that_was_passed_over_is_named_with_its_reason(prover: Prover) -> None:
    assert _choose(CAPPED, "onnxruntime", prover)[1].endswith("not contrib-mha: it has no softcap")


@pytest.mark.parametrize(
    ("core", "name"), [(PADDED, "contrib-mha"), (CAUSAL, "contrib-mha"), (GROUPED, "decomposed"), (SHORT_GROUPED, "grouped")]
)
def test_defaults_on_openvino(core: Core, name: str, prover: Prover) -> None:
    assert _choose(core, "openvino", prover)[0] == name


def test_unmasked_attention_on_openvino_gets_a_form_that_is_proven(prover: Prover) -> None:
    name, reason = _choose(FULL, "openvino", prover)
    assert name == "decomposed-open"
    assert "not contrib-mha: its probe fails here (wrong values" in reason
    assert "not decomposed: its probe fails here (wrong values" in reason


def test_unmasked_grouped_attention_on_openvino_gets_a_form_that_is_proven(prover: Prover) -> None:
    core = Core(SoftmaxAttention(6, 2, 8), square=True, max_keys=512)
    assert _choose(core, "openvino", prover)[0] == "grouped-open"


def test_defaults_are_tried_in_order_and_end_with_what_every_runtime_has() -> None:
    assert [name for name, _ in candidates("onnxruntime", FULL)] == ["attention-23", *FALL_BACK]
    assert [name for name, _ in candidates("onnxruntime", UNBOUNDED)] == ["contrib-mha", "attention-23", *FALL_BACK]
    assert [name for name, _ in candidates("a runtime nobody measured", FULL)] == list(FALL_BACK)


def test_defaults_name_lowerings_that_exist() -> None:
    assert {name for row in DEFAULTS for name in row.order} | set(FALL_BACK) <= set(LOWERINGS)


def test_forced_and_proven(prover: Prover) -> None:
    assert _choose(PADDED, "onnxruntime", prover, "decomposed") == ("decomposed", "forced")
    assert _choose(CAUSAL, "onnxruntime", prover, "contrib-gqa") == ("contrib-gqa", "forced")


def test_forced_but_unknown_names_the_nearest(prover: Prover) -> None:
    with pytest.raises(UsageError, match=r"unknown lowering 'contrib-mah'; did you mean 'contrib-mha'"):
        _choose(PADDED, "onnxruntime", prover, "contrib-mah")


def test_forced_but_not_accepting(prover: Prover) -> None:
    with pytest.raises(
        LoweringError, match=r"--lowering contrib-gqa cannot write 2 heads x 8, key_padding mask .*always causal"
    ):
        _choose(PADDED, "onnxruntime", prover, "contrib-gqa")


def test_forced_but_not_proven(prover: Prover) -> None:
    with pytest.raises(LoweringError, match=r"--lowering contrib-gqa .* for openvino:cpu: its probe fails here \(openvino"):
        _choose(CAUSAL, "openvino", prover, "contrib-gqa")
    with pytest.raises(LoweringError, match=r"its probe fails here \(wrong values"):
        _choose(FULL, "openvino", prover, "attention-23")


def test_nothing_proven_is_an_error_that_lists_what_was_tried(tmp_path: Path) -> None:
    """A folder that cannot hold what the prover writes: files in the place of models that no runtime can load."""
    prover = Prover(tmp_path)
    for name in (*LOWERINGS, "x"):
        if name in LOWERINGS and LOWERINGS[name].accepts(PADDED) is None:
            prover.model(LOWERINGS[name], PADDED).write_bytes(b"nothing")
    with pytest.raises(
        LoweringError, match=r"no lowering of 2 heads x 8, key_padding mask is proven on onnxruntime:cpu"
    ) as caught:
        _choose(PADDED, "onnxruntime", prover)
    for name in ("attention-23", "decomposed"):
        assert f"not {name}: its probe fails here" in str(caught.value)
