"""What the site needs besides: links to files beside `docs/`, and whether the API is whole."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any
from zlib import decompress

from mkdocs.exceptions import PluginError

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(?<=\]\()(?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?(?=\))")


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Let links to files outside of the documentation lead into the repository."""
    docs = Path(config.docs_dir)
    folder = docs / Path(page.file.src_uri).parent

    def led(match: re.Match[str]) -> str:
        target = (folder / match[1]).resolve()
        if target.is_relative_to(docs):
            return match[0]
        if not target.exists():
            raise PluginError(f"{page.file.src_uri} links to {match[1]}, which isn't there")
        kind = "tree" if target.is_dir() else "blob"
        return f"{config.repo_url}/{kind}/main/{target.relative_to(ROOT)}{match[2] or ''}"

    return LINK.sub(led, markdown)


def on_post_build(config: Any, **_: Any) -> None:
    """Fail if a public name of a module that has a page isn't on it."""
    inventory = (Path(config.site_dir) / "objects.inv").read_bytes()
    names = {
        line.split()[0] for line in decompress(inventory.split(b"\n", 4)[4]).decode().splitlines()
    }
    pages = (Path(config.docs_dir) / "reference" / "api").glob("*.md")
    modules = [name for page in pages for name in re.findall(r"^::: (\S+)", page.read_text(), re.M)]
    missing = [
        f"{module}.{name}"
        for module in modules
        for name in public_names(module)
        if f"{module}.{name}" not in names
    ]
    if missing:
        raise PluginError(f"the API reference lacks {', '.join(sorted(missing))}")


def public_names(module: str) -> list[str]:
    """Return `__all__`, or else the classes and functions that are written in the module."""
    found = vars(import_module(module))
    written_here = [
        name
        for name, each in found.items()
        if not name.startswith("_") and getattr(each, "__module__", None) == module
    ]
    return list(found.get("__all__", written_here))
