"""Errors of object stores are one clear line."""

import pytest
from s3fs import S3FileSystem

from lookalike.jobs.backup.folder import Folder
from lookalike.model.errors import InvalidRequest


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    # fsspec shares a file system, with the credentials that it found, between all users in a process.
    S3FileSystem.clear_instance_cache()


@pytest.mark.usefixtures("no_credentials")
def test_missing_credentials_are_named_with_the_remedy() -> None:
    folder = Folder("s3://bucket/backups", "photos")
    for use in (folder.numbers, folder.finished, lambda: folder.manifest(1), lambda: folder.chain(1)):
        with pytest.raises(
            InvalidRequest, match=r"^url: \S*bucket/\S+ cannot be used: .*AWS_ACCESS_KEY_ID"
        ) as raised:
            use()
        assert "\n" not in str(raised.value)
    with (
        pytest.raises(InvalidRequest, match="AWS_ACCESS_KEY_ID"),
        folder.open(1, "part-0000-ab.pb.gz", "wb") as file,
    ):
        file.write(b"x")


def test_missing_library_of_a_store_is_named() -> None:
    with pytest.raises(InvalidRequest, match=r"url: gs://bucket/b cannot be used: .*gcsfs"):
        Folder("gs://bucket/b", "photos")
