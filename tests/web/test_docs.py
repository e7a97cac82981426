"""The commands in docs/REST.md work unchanged."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from coordinator.web import routes
from tests.web.conftest import PHOTOGRAPHS

TEXT = (Path(__file__).parents[2] / "docs" / "REST.md").read_text(encoding="utf-8")


def test_each_call_has_a_line() -> None:
    described = {
        (method, path)
        for methods, path in re.findall(r"^\| ((?:`?[A-Z]+`?(?:, )?)+) (/[^`?]*)[^`]*` \|", TEXT, re.MULTILINE)
        for method in re.findall("[A-Z]+", methods)
    }
    plain = (routes.HEALTH, routes.STATUS, routes.THUMBNAIL, routes.OPENAPI)
    assert described == {(route.method, route.path) for route in (*routes.CALLS, *plain)}


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_commands_work(photograph_base: str, cat: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    assert sum(block.count("curl") for block in blocks) >= 18
    script = "\n".join(blocks).replace("http://127.0.0.1:7780", photograph_base)
    (tmp_path / ".curlrc").write_text("silent\nshow-error\nfail-with-body\n")
    shutil.copy(cat, tmp_path / "cat.jpg")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script.replace("/photos/", f"/{PHOTOGRAPHS}/")],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "CURL_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr
    assert '"chelsea/' in done.stdout
    assert (tmp_path / "thumbnail.jpg").read_bytes().startswith(b"\xff\xd8\xff")
