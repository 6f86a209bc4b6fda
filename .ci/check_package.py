"""Build the package, look into it, and use the wheel in a fresh environment as a stranger does.

python .ci/check_package.py              # in .ci/run
python .ci/check_package.py --release    # before a release, too: see docs/releasing.md
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import urllib.request
import venv
import zipfile
from email import message_from_string
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

OF_THE_PAGE = {
    "admin.html",
    "chatkit-trio.d.ts",
    "favicon.svg",
    "index.html",
    "react.d.ts",
    "react.js",
    "vendor/LICENSES.txt",
}
"""What the wheel has of the page's sources: the rest is in `web/static`, built."""

MESSAGE = {
    "type": "threads.create",
    "params": {
        "input": {
            "content": [{"type": "input_text", "text": "Hello"}],
            "attachments": [],
            "inference_options": {},
        }
    },
}

NO_PYTEST = "from importlib.util import find_spec; print(find_spec('pytest'))"


def ran(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a command; return what it prints, or end with that if it fails."""
    run = subprocess.run(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if run.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{run.stdout}")
    return run.stdout


def expect(is_so: bool, what_is_wrong: object) -> None:
    if not is_so:
        sys.exit(f"the package isn't right: {what_is_wrong}")


def build(directory: Path) -> tuple[Path, Path]:
    """Return an sdist, and a wheel that was built from it."""
    ran(sys.executable, "-m", "build", "--no-isolation", "-o", directory, ".")
    (sdist,), (wheel,) = directory.glob("*.tar.gz"), directory.glob("*.whl")
    ran(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)
    return sdist, wheel


def check_sdist(sdist: Path, tracked: set[str]) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    expect(tracked <= names, f"the sdist lacks {sorted(tracked - names)}")
    expect(names - tracked <= {"PKG-INFO"}, f"too much in the sdist: {sorted(names - tracked)}")


def check_wheel(wheel: Path, tracked: set[str]) -> None:
    page = "chatkit_trio/web/page/"
    wanted = {
        name
        for name in tracked
        if name.startswith("chatkit_trio/")
        and (not name.startswith(page) or name.removeprefix(page) in OF_THE_PAGE)
    }
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        description = message_from_string(archive.read(metadata).decode()).get_payload()
    expect(names == wanted, f"other files are in the wheel: {sorted(names ^ wanted)}")
    links = re.findall(r"\]\(([^)]+)\)", str(description))
    dead = [link for link in links if not link.startswith(("https://", "#"))]
    expect(bool(links) and not dead, f"links that lead nowhere on PyPI: {dead}")


def check_use(wheel: Path, directory: Path) -> None:
    """Serve the demo, then make a project and do what is printed; nothing else is installed."""
    venv.create(directory / "venv", with_pip=True)
    bin_ = directory / "venv" / "bin"
    ran(bin_ / "pip", "install", "-q", wheel)
    expect(ran(bin_ / "python", "-c", NO_PYTEST) == "None\n", "pytest comes with it")
    serve_demo(bin_ / "chatkit-trio", directory)

    told = ran(bin_ / "chatkit-trio", "new", "my_chat", cwd=directory)
    commands = [line.strip() for line in told.splitlines() if line.startswith("    ")]
    enter, install, test, _serve = commands
    expect("chatkit-trio[testing]" in install, told)
    expect("3 passed" in ran("sh", "-ec", f"{enter}; {install} -q; {test}", cwd=directory), told)


def serve_demo(command: Path, directory: Path) -> None:
    server = subprocess.Popen(
        [command, "demo", "--port", "0"], cwd=directory, stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        said = []
        for line in server.stdout:
            said.append(line)
            if url := re.search(r"http://[\d.]+:\d+", line):
                break
        else:
            sys.exit(f"the demo doesn't serve:\n{''.join(said)}")
        with urllib.request.urlopen(f"{url[0]}/", timeout=10) as page:
            script = re.search(r'src="/?(static/[^"]+\.js)"', page.read().decode())
        expect(script is not None, "the page has no script")
        with urllib.request.urlopen(f"{url[0]}/{script and script[1]}", timeout=10) as file:
            expect(len(file.read()) > 10_000, "the page's script is no script")
        body = json.dumps(MESSAGE).encode()
        with urllib.request.urlopen(f"{url[0]}/chatkit", body, timeout=60) as answer:
            events = [json.loads(line[6:]) for line in answer if line.startswith(b"data: ")]
        done = [event["item"] for event in events if event["type"] == "thread.item.done"]
        expect(done[-1]["type"] == "assistant_message", events)
    finally:
        server.terminate()
        server.communicate(timeout=30)
    expect(server.returncode == 0, f"the demo ended with exit code {server.returncode}")


def check_release() -> None:
    """The addresses are those of the repository that this is released from."""
    origin = ran("git", "remote", "get-url", "origin").strip().removesuffix(".git")
    path = re.sub(r"^(https?://[^/]+/|[^@/]+@[^:]+:)", "", origin)
    home = PROJECT["urls"]["Repository"]
    expect(home.endswith(f"/{path}"), f"the addresses are of {home}, this is {origin}")
    version = ran(sys.executable, "-c", "import chatkit_trio as c; print(c.__version__)").strip()
    expect(
        f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text("utf-8"),
        f"CHANGELOG.md has no section for {version}",
    )


def main() -> int:
    tracked = {name for name in ran("git", "ls-files").splitlines() if (ROOT / name).exists()}
    if "--release" in sys.argv[1:]:
        check_release()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        sdist, wheel = build(directory / "dist")
        check_sdist(sdist, tracked)
        check_wheel(wheel, tracked)
        check_use(wheel, directory)
        print(f"{wheel.name} ({wheel.stat().st_size // 1000} kB) and {sdist.name} are right")
    return 0


if __name__ == "__main__":
    sys.exit(main())
