"""Build the native library: `python build.py -o libgated_norm.so`. Needs a C++17 compiler and ONNX Runtime's C headers."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

HEADER = "onnxruntime_cxx_api.h"
PLACES = ("/usr/include/onnxruntime", "/usr/local/include/onnxruntime")
HELP = (
    f"{HEADER} is not found. On Debian 13 or later: apt install libonnxruntime-dev. Elsewhere unpack a release of "
    "https://github.com/microsoft/onnxruntime/releases and pass its folder `include` as --include, or in ONNXRUNTIME_INCLUDE"
)


def find_headers(given: str | None = None) -> Path | None:
    """The folder of ONNX Runtime's headers: the one given, that of ONNXRUNTIME_INCLUDE, or where packages put them."""
    named = given or os.environ.get("ONNXRUNTIME_INCLUDE")
    return next((Path(place) for place in ([named] if named else PLACES) if (Path(place) / HEADER).is_file()), None)


def find_compiler() -> str | None:
    """The C++ compiler: CXX, or the first that is installed."""
    names = [os.environ["CXX"]] if "CXX" in os.environ else ["c++", "g++", "clang++"]
    return next((path for name in names if (path := shutil.which(name))), None)


def build(source: Path, output: Path, headers: Path, compiler: str) -> None:
    """Compile `source` to a shared library. The library needs nothing of ONNX Runtime until a session loads it."""
    output.parent.mkdir(parents=True, exist_ok=True)
    flags = ["-std=c++17", "-O3", "-Wall", "-fPIC", "-shared", "-fvisibility=hidden"]
    subprocess.run([compiler, *flags, "-isystem", str(headers), str(source), "-o", str(output)], check=True)


def main() -> None:
    """Parse the command line and build."""
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("libgated_norm.so"))
    parser.add_argument("--include", help="folder of ONNX Runtime's C and C++ headers")
    arguments = parser.parse_args()
    headers, compiler = find_headers(arguments.include), find_compiler()
    if headers is None:
        sys.exit(HELP)
    if compiler is None:
        sys.exit("no C++ compiler is found; install g++ or clang, or set CXX")
    build(here / "gated_norm.cc", arguments.output, headers, compiler)
    print(f"built {arguments.output} with {compiler} and {headers}")


if __name__ == "__main__":
    main()
