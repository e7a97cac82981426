"""Every command and program in the documents runs, in order, in one folder per document, against a real cluster.
DOCUMENTS lists the documents."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import Cluster
from tests.docs.blocks import ROOT, blocks_of
from tests.docs.workplace import Workplace

MAX_NOT_RUN = 6


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """needs_encoder: its `lookalike up` stands for the tests' cluster with an encoder; otherwise it starts its
    own. keeps_collections: whether collections are kept from one block to the next."""

    needs_encoder: bool = False
    keeps_collections: bool = True


DOCUMENTS = {
    "README.md": Document(needs_encoder=True, keeps_collections=False),
    "docs/QUICKSTART.md": Document(needs_encoder=True),
    "docs/GRPC.md": Document(needs_encoder=True),
    "docs/PYTHON.md": Document(needs_encoder=True),
    "docs/CONCEPTS.md": Document(),
    "docs/OPERATIONS.md": Document(),
    "docs/SECURITY.md": Document(),
    "docs/RETRIEVAL_QUALITY.md": Document(),
}
# Documents whose commands are run by another test, and that test.
ELSEWHERE = {
    "docs/DEPLOY.md": "tests/deploy/test_docs.py",
    "docs/REST.md": "tests/web/test_docs.py",
    "docs/INGESTION.md": "tests/cluster/test_ingestion_docs.py",
    "docs/OBSERVABILITY.md": "tests/cluster/test_observe.py",
}


@pytest.fixture
def cluster_of(request: pytest.FixtureRequest, document: str) -> Iterator[Cluster | None]:
    """The cluster with an encoder, if the document needs one. Collections that the document creates are dropped
    afterwards."""
    if not DOCUMENTS[document].needs_encoder:
        yield None
        return
    cluster: Cluster = request.getfixturevalue("encoder_cluster")
    before = collections_of(cluster)
    yield cluster
    drop_all_but(before, cluster)


def collections_of(cluster: Cluster) -> set[str]:
    with cluster.client() as client:
        return {found.name for found in client.list_collections()}


def drop_all_but(kept: set[str], cluster: Cluster) -> None:
    with cluster.client() as client:
        for found in client.list_collections():
            if found.name not in kept:
                client.drop_collection(found.name)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_of_a_document_run(
    document: str, cluster_of: Cluster | None, photographs: Path, tmp_path: Path
) -> None:
    kept = collections_of(cluster_of) if cluster_of else set()
    place = Workplace(tmp_path, photographs, cluster_of.config if cluster_of else None)
    try:
        for block in blocks_of(document):
            if block.not_run is None:
                if cluster_of and not DOCUMENTS[document].keeps_collections:
                    drop_all_but(kept, cluster_of)
                result = place.run(block)
                said = f"{document}:{block.line}: exit code {result.returncode}\n{result.stdout[-3000:]}"
                assert result.returncode == 0, f"{said}\n{place.logs()}"
    finally:
        place.close()


def test_few_blocks_are_skipped_and_each_has_a_reason() -> None:
    not_run = [block for document in DOCUMENTS for block in blocks_of(document) if block.not_run]
    for block in not_run:
        print(f"{block.file}:{block.line}: not run: {block.not_run}")
    assert len(not_run) <= MAX_NOT_RUN


def test_every_document_with_commands_is_tested() -> None:
    documents = ["README.md", *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md")))]
    unknown = [name for name in documents if any(blocks_of(name)) and name not in {**DOCUMENTS, **ELSEWHERE}]
    assert unknown == []


ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"


@pytest.mark.skipif(not ALERTS.exists(), reason="there are no alert rules here")
def test_each_alert_has_a_section_that_says_what_to_do() -> None:
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"]}
    lines = (ROOT / "docs" / "OPERATIONS.md").read_text(encoding="utf-8").splitlines()
    assert alerts == {line.removeprefix("### ") for line in lines if line.startswith("### Lookalike")}


def test_links_between_pages_resolve() -> None:
    broken = []
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []
