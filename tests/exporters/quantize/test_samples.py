"""Where calibration comes from, and how it is parted."""

from __future__ import annotations

import shutil
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from edgeattn.bundle import open_bundle
from edgeattn.errors import EdgeAttnError
from edgeattn.exporters.quantize.samples import SYNTHETIC, Feeds, Samples, check_path, gather
from edgeattn.tensors import write_tensors
from tests.edgeattn.decoding.small import CAPACITY
from tests.exporters.quantize.small_encoder import VOCABULARY

COUNT = 40


def rows(seed: int = 0) -> Feeds:
    """COUNT samples of the small encoder, each told by its first token."""
    ids = np.random.default_rng(seed).integers(VOCABULARY, size=(COUNT, 9))
    ids[:, 0] = np.arange(COUNT)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def firsts(samples: Samples) -> list[list[int]]:
    return [[int(feeds["input_ids"][0, 0]) for feeds in part] for part in (samples.calibration, samples.search, samples.unseen)]


def test_rows_of_arrays(encoder: Path, tmp_path: Path) -> None:
    """Both kinds of file say the same; each row is in one part, and only there."""
    np.savez(tmp_path / "a.npz", **rows())  # type: ignore[arg-type]
    write_tensors(tmp_path / "a.safetensors", rows())
    bundle = open_bundle(encoder)
    found = [gather(bundle, tmp_path / name, None, seed=0) for name in ("a.npz", "a.safetensors")]
    assert firsts(found[0]) == firsts(found[1])
    assert [len(part) for part in firsts(found[0])] == [10, 10, 20]
    assert sorted(chain.from_iterable(firsts(found[0]))) == list(range(COUNT))
    assert found[0].origin == str(tmp_path / "a.npz")
    for feeds in (*found[0].calibration, *found[0].unseen):
        np.testing.assert_array_equal(feeds["input_ids"][0], rows()["input_ids"][feeds["input_ids"][0, 0]])


def test_the_seed_says_which_are_kept_aside(encoder: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **rows())  # type: ignore[arg-type]
    one, same, other = (firsts(gather(open_bundle(encoder), tmp_path / "a.npz", None, seed)) for seed in (0, 0, 1))
    assert one == same != other


def test_a_folder_of_files(encoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "inputs"
    folder.mkdir()
    np.savez(folder / "a.npz", **rows())  # type: ignore[arg-type]
    write_tensors(folder / "b.safetensors", rows(1))
    (folder / "notes.md").write_text("is not read")
    samples = gather(open_bundle(encoder), folder, None, seed=0)
    assert sorted(chain.from_iterable(firsts(samples))) == sorted([*range(COUNT), *range(COUNT)])


def test_random_inputs_are_said_to_be(encoder: Path) -> None:
    samples = gather(open_bundle(encoder), None, None, seed=0)
    assert samples.origin == SYNTHETIC
    assert len({feeds["input_ids"].shape for feeds in samples.unseen}) > 5
    assert all((feeds["attention_mask"] == 1).all() for feeds in samples.unseen)


def test_texts_of_a_model_that_has_some(decoder: Path) -> None:
    samples = gather(open_bundle(decoder), None, lambda: ["the cat sat on the mat and the dog"] * 200, seed=0)
    assert samples.origin == "200 texts that come with the model's name"


def test_windows_are_no_longer_than_the_model_takes(decoder: Path, tmp_path: Path) -> None:
    """Of random tokens, and of a text by the bundle's own tokenizer: the stream of tokens, cut."""
    from tokenizers import Tokenizer

    lines = [f"the cat sat on the mat {i}" for i in range(400)]
    (tmp_path / "lines.txt").write_text("\n\n".join(lines))
    bundle = open_bundle(decoder)
    for path in (None, tmp_path / "lines.txt"):
        samples = gather(bundle, path, None, seed=0)
        every = [feeds["input_ids"] for part in (samples.calibration, samples.search, samples.unseen) for feeds in part]
        assert {array.shape for array in every} == {(1, CAPACITY)}
    tokenizer = Tokenizer.from_file(str(bundle.file("tokenizer/tokenizer.json")))
    stream = [token for line in lines for token in tokenizer.encode(line).ids]
    first = next(array for array in every if array[0, :20].tolist() == stream[:20])
    assert first[0].tolist() == stream[:CAPACITY]


def _bad(name: str, folder: Path) -> Path:
    arrays = rows()
    if name == "names":
        arrays = {"ids": arrays["input_ids"], "attention_mask": arrays["attention_mask"]}
    if name == "lacks":
        del arrays["attention_mask"]
    if name == "shapes":
        arrays["input_ids"] = arrays["input_ids"][:, :5]
    if name == "rank":
        arrays["input_ids"] = arrays["input_ids"][0]
    if name == "dtype":
        arrays["input_ids"] = arrays["input_ids"].astype(np.float32)
    if name == "few":
        arrays = {key: array[:11] for key, array in arrays.items()}
    if name == "empty":
        arrays = {key: array[:0] for key, array in arrays.items()}
    if name == "nothing":
        arrays = {}
    path = folder / "bad.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    if name == "pickled":
        np.savez(path, input_ids=np.array([{}], dtype=object), allow_pickle=True)
    if name == "broken":
        path.write_bytes(path.read_bytes()[:50])
    if name == "array":
        np.save(folder / "bad.npy", rows()["input_ids"])
        shutil.move(folder / "bad.npy", path)
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("names", "unknown input 'ids'"),
        ("lacks", "input 'attention_mask' is missing"),
        ("shapes", "sequence"),
        ("rank", "input_ids"),
        ("dtype", "input_ids"),
        ("few", "makes 11 samples, at least 12 are needed"),
        ("empty", "batch|samples|size"),
        ("nothing", "is missing"),
        ("pickled", "bad.npz"),
        ("broken", "bad.npz"),
        ("array", "bad.npz"),
    ],
)
def test_arrays_that_cannot_be_used(encoder: Path, name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(EdgeAttnError, match=message) as found:
        gather(open_bundle(encoder), _bad(name, tmp_path), None, seed=0)
    assert found.value.exit_code == 2


def test_a_model_without_a_tokenizer_takes_no_text(encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("a line\n" * 20)
    with pytest.raises(EdgeAttnError, match="has no tokenizer: its model takes arrays"):
        gather(open_bundle(encoder), tmp_path / "lines.txt", None, seed=0)


@pytest.mark.parametrize("content", [b"\n\n", b"\xff\xfe\x00"])
def test_a_text_that_is_none(decoder: Path, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_bytes(content)
    with pytest.raises(EdgeAttnError, match=r"lines\.txt"):
        gather(open_bundle(decoder), tmp_path / "lines.txt", None, seed=0)


def factory(folder: Path, body: str) -> Path:
    """`file.py:give` with this body."""
    (folder / "given.py").write_text(f"import numpy as np\n\ndef give():\n    {body}\n")
    return folder / "given.py:give"


def test_a_function_of_the_users_own(encoder: Path, decoder: Path, tmp_path: Path) -> None:
    """Arrays of one or of several samples; of a language model texts as well, read together."""
    body = f"for i in range({COUNT // 2}): yield {{name: np.full((2, 9), i + 1) for name in ('input_ids', 'attention_mask')}}"
    samples = gather(open_bundle(encoder), factory(tmp_path, body), None, seed=0)
    assert sorted(chain.from_iterable(firsts(samples))) == sorted([*range(1, COUNT // 2 + 1), *range(1, COUNT // 2 + 1)])
    assert samples.origin == str(tmp_path / "given.py:give")
    texts = gather(open_bundle(decoder), factory(tmp_path, "return ['the cat sat on the mat. ' * 40] * 60"), None, seed=0)
    (tmp_path / "texts.txt").write_text("\n".join(["the cat sat on the mat. " * 40] * 60))
    same = gather(open_bundle(decoder), tmp_path / "texts.txt", None, seed=0)
    assert len(texts.unseen) == len(same.unseen) > 0


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "return 5",
            r"given.py:give: it failed: TypeError: .*expected a function without arguments that gives texts, or arrays",
        ),
        ("return [5]", r"it failed: TypeError"),
        ("raise RuntimeError('no disk')", r"it failed: RuntimeError: no disk"),
        ("return [{'ids': np.ones((1, 9), dtype=int)}]", r"unknown input 'ids'"),
        ("return []", r"given.py:give makes 0 samples, at least 12 are needed"),
    ],
)
def test_a_function_that_gives_nothing_of_use(encoder: Path, body: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(EdgeAttnError, match=message):
        gather(open_bundle(encoder), factory(tmp_path, body), None, seed=0)


def test_a_function_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EdgeAttnError, match="has no function 'other'; it has: give"):
        check_path(factory(tmp_path, "return []").with_name("given.py:other"))
