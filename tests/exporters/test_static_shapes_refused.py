"""What `--static-shapes` refuses, and what it says then."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from edgeattn.cli import cli
from edgeattn.errors import UsageError
from edgeattn.exporters.sources.base import Dimension
from edgeattn.exporters.static_shapes import check_shapes

DIMENSIONS = {"batch": Dimension("batch", batch=True), "sequence": Dimension("sequence", limit=512, least=2)}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([{"batch": 1, "seq": 3}], r"no dynamic dimension 'seq'; it has: batch \(1 or more\), sequence \(2 to 512\)"),
        ([{"batch": 1}], "leaves out sequence; give a size for each of"),
        ([{}], "leaves out batch, sequence"),
        ([{"batch": 0, "sequence": 8}], "batch=0: expected a whole number, 1 or more"),
        ([{"batch": 1, "sequence": 1}], "sequence=1: expected a whole number, 2 to 512"),
        ([{"batch": 1, "sequence": 513}], "sequence=513: expected a whole number, 2 to 512"),
        ([{"batch": True, "sequence": 8}], "batch=True: expected a whole number"),
        ([{"batch": 1, "sequence": 8}, {"sequence": 8, "batch": 1}], "batch=1,sequence=8 is given twice"),
    ],
)
def test_sizes_that_cannot_be_are_refused(shapes: list[dict[str, int]], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_shapes(shapes, DIMENSIONS)


def test_a_model_of_fixed_sizes_takes_no_other() -> None:
    with pytest.raises(UsageError, match="fixed already"):
        check_shapes([{"batch": 1}], {})


def test_order_is_that_of_the_model() -> None:
    (bucket,) = check_shapes([{"sequence": 8, "batch": 2}], DIMENSIONS)
    assert list(bucket.items()) == [("batch", 2), ("sequence", 8)]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("batch=1,sequence", "--static-shapes 'sequence': expected NAME=N"),
        ("batch=1,batch=2", "--static-shapes gives batch twice"),
        ("", "--static-shapes '': expected NAME=N"),
        ("batch=-1", "expected NAME=N with a whole number"),
        ("batch=²", "expected NAME=N with a whole number"),
    ],
)
def test_the_option_explains_itself(tiny_source: str, tmp_path: Path, value: str, message: str) -> None:
    result = CliRunner().invoke(cli, ["export", tiny_source, "-o", str(tmp_path / "out"), "--static-shapes", value])
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "out").exists()
