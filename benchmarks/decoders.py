"""The ways to run a language model with its cache, each with the least around it: read tokens, give the last one's logits.

Only what a way needs is imported, when it is made, so that a fresh process tells its own memory.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import calm  # noqa: F401
import numpy as np
from numpy.typing import NDArray

from edgeattn.bundle import open_bundle
from edgeattn.decoding.opening import decoder_session, reach
from edgeattn.loading import open_session, pick_flavours
from edgeattn.manifest import FP32, PAST
from edgeattn.runtimes import registry
from edgeattn.runtimes.base import LoadOptions

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


class Decoder:
    """One sequence that grows. `reset` forgets it and makes room for `room` positions, `read` goes on with it."""

    about = ""
    """What is really used: versions, settings."""
    exact = True
    """Whether it is to say what PyTorch says; smaller numbers only have to be near it."""

    def reset(self, room: int) -> None:
        """Forget everything; at most `room` positions follow."""
        raise NotImplementedError

    def read(self, tokens: Ints) -> Floats:
        """The next tokens (S,) -> the last one's logits (V,)."""
        raise NotImplementedError

    def step(self, token: int) -> Floats:
        """The next token -> its logits (V,)."""
        return self.read(np.array([token]))

    def cache_bytes(self) -> int:
        """Bytes that the cache takes for each position read so far."""
        raise NotImplementedError


class Ours(Decoder):
    """The bundle by our own session, as `edgeattn.decoding.load_decoder` gives it, but for workers that do not spin."""

    def __init__(self, bundle: str, runtime: str, threads: int, precision: str | None = None) -> None:
        opened = open_bundle(bundle)
        engine, device = registry.parse_target(runtime)
        options = LoadOptions(device=device, threads=threads, spin=False)
        session = open_session(opened, pick_flavours(opened, engine, device, precision=precision), engine, options)
        self._session = decoder_session(session, opened.manifest.limits.get(PAST), reach(opened.manifest))
        self._past = [info for info in opened.manifest.inputs if info.name.startswith("past_key_values.")]
        self.about = session.effective.summary()
        self.exact = precision in (None, FP32)
        self._kept = _KEPT.get(session.effective.kv_precision, 4)

    def reset(self, room: int) -> None:
        self._session.reset()

    def read(self, tokens: Ints) -> Floats:
        return self._session.prefill(tokens[None], all_logits=False)[0, -1]

    def step(self, token: int) -> Floats:
        return self._session.decode([token])[0]

    def cache_bytes(self) -> int:
        return sum(_row_elements(info.dims) for info in self._past) * self._kept


_KEPT = {"fp16": 2, "int8": 1, "uint8": 1}
"""Bytes of a number of a cache that is kept in less than fp32; scales that go with it are not counted."""


def _row_elements(dims: tuple[Any, ...]) -> int:
    """Of one position of one sequence: a dimension with a name is the batch or the past."""
    return int(np.prod([dim for dim in dims if isinstance(dim, int)]))


class TorchEager(Decoder):
    """transformers' own model, step by step as its `generate` does: a DynamicCache, and logits of the last position alone."""

    def __init__(self, folder: Path, threads: int) -> None:
        import torch
        import transformers

        torch.set_num_threads(threads)
        self._torch, self._transformers = torch, transformers
        self._model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        self.reset(0)
        self.about = f"torch {torch.__version__}, transformers {transformers.__version__}"

    def reset(self, room: int) -> None:
        self._cache = self._transformers.DynamicCache(config=self._model.config)

    def read(self, tokens: Ints) -> Floats:
        with self._torch.inference_mode():
            ids = self._torch.from_numpy(tokens)[None]
            found = self._model(input_ids=ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        logits: Floats = found.logits[0, -1].numpy()
        return logits

    def cache_bytes(self) -> int:
        held = sum(layer.keys.nbytes + layer.values.nbytes for layer in self._cache.layers)
        return int(held // self._cache.get_seq_length())


class OptimumOnnx(Decoder):
    """optimum-onnx's file on a bare ONNX Runtime session, with IOBinding: what it gives is bound as what it takes next.

    optimum's own Python binds torch tensors that it makes for every step; ONNX Runtime's own buffers, as here, are quicker.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._ort = onnxruntime
        self._session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, ["CPUExecutionProvider"])
        self._takes = [info.name for info in self._session.get_inputs()]
        self._past = {info.name: info.shape for info in self._session.get_inputs() if info.name.startswith("past_")}
        self._gives = [info.name for info in self._session.get_outputs()]
        self.about = f"onnxruntime {onnxruntime.__version__}"

    def reset(self, room: int) -> None:
        self._length = 0
        self._held = {}
        for name, dims in self._past.items():
            shape = [1, *dims[1:2], 0, *dims[3:]]  # (B, K, P, D)
            self._held[name] = self._ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype=np.float32))

    def read(self, tokens: Ints) -> Floats:
        feeds = _feeds(tokens, self._length)
        binding = self._session.io_binding()
        for name in self._takes:
            if name in feeds:
                binding.bind_cpu_input(name, feeds[name])
            else:
                binding.bind_ortvalue_input(name, self._held[name])
        for name in self._gives:
            binding.bind_output(name)
        self._session.run_with_iobinding(binding)
        found = dict(zip(self._gives, binding.get_outputs(), strict=True))
        self._held = {name: found[name.replace("past_key_values", "present")] for name in self._past}
        self._length += len(tokens)
        logits: Floats = found["logits"].numpy()[0, -1]
        return logits

    def cache_bytes(self) -> int:
        return sum(value.numpy().nbytes for value in self._held.values()) // self._length


class OptimumIntel(Decoder):
    """optimum-intel's stateful file on bare OpenVINO, in fp32 with its cache in fp32, driven as its own Python does."""

    def __init__(self, folder: Path, threads: int) -> None:
        import openvino

        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "KV_CACHE_PRECISION": "f32",
        }
        compiled = openvino.Core().compile_model(str(folder / "openvino_model.xml"), "CPU", settings)
        self._takes = {name for port in compiled.inputs for name in port.get_names()}
        self._request = compiled.create_infer_request()
        self.about = f"openvino {openvino.__version__.partition('-')[0]}"

    def reset(self, room: int) -> None:
        self._length = 0
        self._request.reset_state()

    def read(self, tokens: Ints) -> Floats:
        feeds = _feeds(tokens, self._length) | {"beam_idx": np.zeros(1, dtype=np.int32)}
        self._request.start_async({name: feeds[name] for name in self._takes}, share_inputs=True)
        self._request.wait()
        self._length += len(tokens)
        logits: Floats = self._request.get_tensor("logits").data[0, -1].copy()
        return logits

    def cache_bytes(self) -> int:
        return sum(state.state.byte_size for state in self._request.query_state()) // self._length


def _feeds(tokens: Ints, length: int) -> dict[str, Ints]:
    whole = length + len(tokens)
    ones = np.ones((1, whole), dtype=np.int64)
    return {"input_ids": tokens[None], "attention_mask": ones, "position_ids": np.arange(length, whole)[None]}


class GenAI(Decoder):
    """ONNX Runtime GenAI with the file of its own model builder; its cache is one buffer, of the room that was asked for."""

    def __init__(self, folder: Path, threads: int) -> None:
        import onnxruntime_genai

        settings = {"intra_op_num_threads": threads, "inter_op_num_threads": 1, "session.force_spinning_stop": "1"}
        config = onnxruntime_genai.Config(str(folder))
        config.overlay(json.dumps({"model": {"decoder": {"session_options": settings}}}))
        self._layers = json.loads((folder / "genai_config.json").read_text())["model"]["decoder"]["num_hidden_layers"]
        self._genai, self._model = onnxruntime_genai, onnxruntime_genai.Model(config)
        self.about = f"onnxruntime-genai {onnxruntime_genai.__version__}"

    def reset(self, room: int) -> None:
        parameters = self._genai.GeneratorParams(self._model)
        parameters.set_search_options(max_length=room, do_sample=False)
        self._generator = self._genai.Generator(self._model, parameters)
        self._room = room

    def read(self, tokens: Ints) -> Floats:
        self._generator.append_tokens(tokens.astype(np.int32))
        logits: Floats = self._generator.get_logits()
        return logits.reshape(-1, logits.shape[-1])[-1]

    def cache_bytes(self) -> int:
        names = [f"present.{layer}.{part}" for layer in range(self._layers) for part in ("key", "value")]
        return sum(self._generator.get_output(name).nbytes for name in names) // self._room


class LlamaCpp(Decoder):
    """The GGUF file itself on llama.cpp, its weights in the blocks that the file holds and inputs rounded block by block."""

    exact = False

    def __init__(self, gguf: Path, threads: int) -> None:
        import llama_cpp

        self._make = lambda room: llama_cpp.Llama(
            str(gguf), n_ctx=room, n_batch=512, n_threads=threads, n_threads_batch=threads, verbose=False
        )
        self._llama: Any = None
        self.about = f"llama-cpp-python {llama_cpp.__version__}, {gguf.stem.rpartition('.')[2]}"
        self.reset(_LEAST_ROOM)

    def reset(self, room: int) -> None:
        if self._llama is None or room > self._llama.n_ctx():
            self._llama = None  # freed before the next is made
            self._llama = self._make(room)
        self._llama.reset()

    def read(self, tokens: Ints) -> Floats:
        self._llama.eval(tokens.tolist())
        values = self._llama._ctx.get_logits_ith(-1)  # the public ways convert each of them to a float of Python
        return np.ctypeslib.as_array(values, shape=(self._llama.n_vocab(),)).copy()

    def cache_bytes(self) -> int:
        facts = self._llama.metadata
        layers, heads, own, width = (int(facts[f"llama.{name}"]) for name in _CACHE_FACTS)
        return 2 * layers * own * (width // heads) * 2  # keys and values in float16


_LEAST_ROOM = 512
_CACHE_FACTS = ("block_count", "attention.head_count", "attention.head_count_kv", "embedding_length")
