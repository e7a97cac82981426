"""Generates lookalike/v1 from the contracts, or with --check says whether it is current."""

from __future__ import annotations

import filecmp
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).parent
TARGET = PROTOS.parent / "lookalike" / "v1"


def generate(output: Path) -> None:
    """Write the stubs (.py and .pyi) of every contract below `output`/lookalike/v1."""
    bundled = resources.files("grpc_tools") / "_proto"
    contracts = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    arguments = ["protoc", f"-I{PROTOS}", f"-I{bundled}"]
    arguments += [f"--{kind}_out={output}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    beside_python = Path(sys.executable).parent
    arguments += [f"--plugin={beside_python / f'protoc-gen-{kind}'}" for kind in ("mypy", "mypy_grpc")]
    if protoc.main([*arguments, *contracts]) != 0:
        sys.exit("error: protoc failed")


def main() -> None:
    if "--check" not in sys.argv[1:]:
        generate(PROTOS.parent)
        return
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = Path(folder) / "lookalike" / "v1"
        names = sorted({path.name for base in (fresh, TARGET) for path in base.glob("*_pb2*")})
        _, different, missing = filecmp.cmpfiles(fresh, TARGET, names, shallow=False)
    if different or missing:
        sys.exit(f"error: not current: {', '.join(different + missing)}; run `make protos`")
    print("stubs are current")


if __name__ == "__main__":
    main()
