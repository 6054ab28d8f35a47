"""Fixtures every test may use."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from dermatome.storage.layout import DataRoot

REALDATA = Path(__file__).resolve().parents[2] / "shared" / "realdata"


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in its own
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups for the processes that share the tests: a file's fixtures are made once, and the end-to-end tests, which
    use one run of the demo and wait much, are one process's.
    """
    for item in items:
        e2e = "e2e" in item.path.relative_to(Path(__file__).parent).parts
        item.add_marker(pytest.mark.xdist_group("e2e" if e2e else str(item.path)))


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real files kept beside the checkout; the test is skipped where it is absent."""
    if not REALDATA.is_dir():
        pytest.skip("the folder of real data is not beside this checkout")
    return REALDATA


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """An S3 server in this process; credentials and address stand in the environment, as a user would set them."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    given = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "eu-north-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": host,
    }
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    yield given["AWS_ENDPOINT_URL"]
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    server.stop()


@pytest.fixture
def bucket_root(s3: str) -> DataRoot:
    """An empty data root in a bucket of its own."""
    import boto3

    name = f"test-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=s3).create_bucket(
        Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-north-1"}
    )
    return DataRoot.at(f"s3://{name}/data")


@pytest.fixture(params=["disk", "bucket"])
def any_root(request: pytest.FixtureRequest, tmp_path: Path) -> DataRoot:
    """An empty data root, on a disk and in a bucket."""
    if request.param == "disk":
        return DataRoot.at(str(tmp_path / "data"))
    root: DataRoot = request.getfixturevalue("bucket_root")
    return root
