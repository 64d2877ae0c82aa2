"""Native kernels for custom operators in ONNX Runtime: libraries that the caller names, and which kernels really run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeattn.errors import RuntimeRunError, UsageError
from edgeattn.operators import Operator, defined_operators
from edgeattn.runtimes.base import CUSTOM, library_paths, wrap_failure

_BUILT_IN = re.compile(r"(|ai\.onnx|com\.microsoft|com\.ms\.internal|org\.pytorch|edgeattn)(\..*)?")
"""Domains whose operators come with ONNX, with ONNX Runtime, or with edgeattn's canonical form."""


def register(settings: Any, libraries: Sequence[str]) -> None:
    """Load each library, and let the session that is made with `settings` use its kernels.

    Raises:
        UsageError: there is no such file.
        RuntimeRunError: it is no library of custom operators, or not one for this machine.
    """
    for path in library_paths(libraries):
        try:
            settings.register_custom_ops_library(path)
        except Exception as error:  # ONNX Runtime's exceptions share no base below Exception
            failure = wrap_failure("onnxruntime", f"load the library {path}", error)
            raise RuntimeRunError(f"{failure}; it has to export RegisterCustomOps and be built for this machine") from error


def custom_operators(path: Path, libraries: Sequence[str], session: Any) -> dict[str, str]:
    """`mylib::GatedRMSNorm native`, or `... body`, for each custom operator of the file; nothing where it has none.

    Raises:
        UsageError: libraries were given, and no kernel of theirs is used.
    """
    defined = [] if path.suffix == ".ort" else defined_operators(path)  # ONNX Runtime's own format has no functions
    bodies = sorted(operator for operator in defined if _is_custom(operator))
    kernels = _kernels(session)
    native = [operator for operator in kernels or () if _is_custom(operator)]
    if libraries and kernels is not None and not native:
        raise UsageError(_unused(path, libraries, bodies))
    otherwise = "native or body" if libraries and kernels is None else "body"
    found = [f"{operator} native" for operator in native]
    found += [f"{operator} {otherwise}" for operator in bodies if operator not in native]
    return {CUSTOM: ", ".join(found)} if found else {}


def _is_custom(operator: Operator) -> bool:
    return not _BUILT_IN.fullmatch(operator.domain)


def _kernels(session: Any) -> list[Operator] | None:
    """Operators of the graph that is run; a function without a kernel of its own is no longer among them.

    None where ONNX Runtime is too old to tell.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    parts = session.get_provider_graph_assignment_info()
    return sorted({Operator(node.domain, node.op_type) for part in parts for node in part.get_nodes()})


def _unused(path: Path, libraries: Sequence[str], bodies: Sequence[Operator]) -> str:
    held = f"defines {', '.join(map(str, bodies))}" if bodies else "defines no custom operator"
    return (
        f"no kernel of {', '.join(libraries)} is used: {path.name} {held}; leave the library out, or give the one whose "
        "operators have the same domain, name, inputs and types"
    )
