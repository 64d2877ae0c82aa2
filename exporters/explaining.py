"""torch's errors while a model is captured, cut down to what its author can act on."""

from __future__ import annotations

import re

from edgeattn.errors import EdgeAttnError
from edgeattn.exporters.specialized import specialized_lines


def explain_trace(error: Exception) -> str:
    """torch.export's message cut down to what the user can act on, with the line of the model it names."""
    text = str(error)
    where = re.findall(r'File "([^"]+)", line (\d+), in (\w+)\n\s+(.+)', text)
    lines = [f"  {path}:{line} in {function}: {code.strip()}" for path, line, function, code in where[-1:]]
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    if "data-dependent" in text or "GuardOnDataDependent" in type(error).__name__:
        message = f"the model's control flow depends on the values of its tensors, which no static graph can hold: {first}"
        fix = "compute both branches and choose with torch.where, or move the decision out of the model"
    elif "Constraints violated" in text or "ConstraintViolation" in type(error).__name__:
        message, fix = _fixed_size(" ".join(text.split()))
    else:
        message = f"torch.export cannot trace the model ({type(error).__name__}): {first}"
        fix = "run torch.export.export(model, inputs) alone to see the whole report"
    return "\n".join([message, *(lines or specialized_lines(error) or _user_frame(error)), f"fix: {fix}"])


def _fixed_size(text: str) -> tuple[str, str]:
    """What torch.export says of a size that became a number, and what can be done about it."""
    fixed = re.search(r"marked (\w+) as dynamic but your code specialized it to be a constant \((\d+)\)", text)
    if fixed is None:
        message = f"the model fixes a size that was declared dynamic: {text[:600]}"
        return message, "declare that axis static, or take the size from the input's shape inside the model"
    name, size = fixed.groups()
    message = (
        f"the model fixes a size that was declared dynamic: {name} would be static, {size} and nothing else. A Python loop over "
        "that axis does this (one step per position, as state-space and recurrent models have), or a shape used as a number"
    )
    return message, f"declare {name} static, or compute all its positions at once"


def _user_frame(error: Exception) -> list[str]:
    """The innermost frame outside torch, from the traceback."""
    frame, found = error.__traceback__, None
    while frame:
        path = frame.tb_frame.f_code.co_filename
        if "/torch/" not in path and "edgeattn" not in path and "/exporters/" not in path:
            found = f"  {path}:{frame.tb_lineno} in {frame.tb_frame.f_code.co_name}"
        frame = frame.tb_next
    return [found] if found else []


def explain_conversion(error: BaseException) -> str:
    """What went wrong at the bottom: the exporter wraps it in pages of advice."""
    while error.__cause__ is not None and not isinstance(error, EdgeAttnError):
        error = error.__cause__
    if isinstance(error, EdgeAttnError):
        return str(error)
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    fix = "torch.onnx.export(model, ..., dynamo=True, report=True) says more"
    if type(error).__name__ == "DispatchError":
        fix = "give the operator a body in standard operators with edgeattn.exporters.register_custom_operator"
    return f"torch.onnx cannot write the model as a graph ({type(error).__name__}): {first}\nfix: {fix}"
