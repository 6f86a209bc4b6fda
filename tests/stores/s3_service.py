"""A service that speaks S3's protocol, in a process of its own on a free port: moto's.

What it doesn't do, so that no test here can rely on it: it checks no signature, and therefore
neither a URL's expiry nor the type and length that were signed; it ignores `CopySourceIfMatch`,
and it encrypts nothing.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest

botocore_session = pytest.importorskip("botocore.session", reason="botocore isn't installed")
pytest.importorskip("moto.server", reason="moto[server] isn't installed")

SECRET_KEY = "a secret key of tests only"

PROGRAM = """
from werkzeug.serving import WSGIRequestHandler, make_server
from moto.server import DomainDispatcherApplication, create_backend_app

class Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, type, message, *args):
        pass

app = DomainDispatcherApplication(create_backend_app)
server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
print(server.server_port, flush=True)
server.serve_forever()
"""


def make_session() -> Any:
    """Return a session of botocore's that finds credentials."""
    session = botocore_session.Session()
    session.set_credentials("an-access-key", SECRET_KEY)
    return session


@dataclass
class Service:
    """The service, and a client of it."""

    url: str
    client: Any
    names: Iterator[int] = field(default_factory=count)

    def make_bucket(self) -> str:
        """Make an empty bucket, and return its name."""
        name = f"bucket-{next(self.names)}"
        self.client.create_bucket(Bucket=name)
        return name

    def delete_bucket(self, name: str) -> None:
        """Delete a bucket with all that is in it."""
        for key in self.keys(name):
            self.client.delete_object(Bucket=name, Key=key)
        self.client.delete_bucket(Bucket=name)

    def keys(self, bucket: str) -> list[str]:
        answer = self.client.list_objects_v2(Bucket=bucket)
        return [each["Key"] for each in answer.get("Contents", [])]

    def put(self, bucket: str, key: str, content: bytes = b"x") -> None:
        self.client.put_object(Bucket=bucket, Key=key, Body=content)

    def get(self, bucket: str, key: str) -> bytes:
        content: bytes = self.client.get_object(Bucket=bucket, Key=key)["Body"].read()
        return content

    def head(self, bucket: str, key: str) -> Any:
        return self.client.head_object(Bucket=bucket, Key=key)


@contextmanager
def running_service() -> Iterator[Service]:
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = f"http://127.0.0.1:{int(process.stdout.readline())}"
            client = make_session().create_client("s3", endpoint_url=url, region_name="us-east-1")
            yield Service(url, client)
            client.close()
        finally:
            process.kill()


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running_service() as running:
        yield running
