"""The nginx of the system, in the foreground, with all that it writes in one directory."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")

_CONFIGURATION = """
daemon off;
master_process off;
pid nginx.pid;
error_log error.log;
events {{ {events} }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    {http}
}}
"""


def nginx_command(directory: Path, http: str, events: str = "") -> list[str]:
    """Write a configuration with this in its `http` block; return the command that runs it."""
    assert NGINX is not None, "nginx isn't installed"
    (directory / "nginx.conf").write_text(_CONFIGURATION.format(http=http, events=events))
    return [NGINX, "-p", str(directory), "-c", "nginx.conf", "-e", "error.log"]


@asynccontextmanager
async def running_nginx(command: list[str]) -> AsyncIterator[None]:
    """Run nginx until the block is left; who enters has to wait until it listens."""
    process = await trio.lowlevel.open_process(command, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        with trio.CancelScope(shield=True):
            await process.wait()
