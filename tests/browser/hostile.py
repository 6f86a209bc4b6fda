"""A server whose answers hold what a prompt injection would write, and the lists of it.

`chatkit-trio serve tests.browser.hostile:app` serves it. A message names the answer: `links`,
`markup` or `images`; `images only cdn.test` and `images only` first set the thread's rule.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from itertools import count
from typing import Any

from chatkit_trio.server import ChatKitServer
from chatkit_trio.stores import MemoryStore
from chatkit_trio.types import (
    Annotation,
    AssistantMessageContent,
    AssistantMessageItem,
    CustomTask,
    GeneratedImage,
    GeneratedImageItem,
    NoticeEvent,
    SearchTask,
    TaskItem,
    ThoughtTask,
    ThreadItem,
    ThreadItemDoneEvent,
    ThreadMetadata,
    ThreadStreamEvent,
    URLSource,
    UserMessageItem,
    WidgetItem,
    Workflow,
    WorkflowItem,
)
from chatkit_trio.web import create_app
from chatkit_trio.widgets import DynamicWidgetRoot

# Each would run `tried()`, which sets a mark that the tests look for.
SCRIPT_URLS = [
    "javascript:tried()",
    "JavaScript:tried()",
    "  javascript:tried()",
    "\tjavascript:tried()",
    "\x01javascript:tried()",
    "java\tscript:tried()",
    "java\nscript:tried()",
    "java\rscript:tried()",
    "javascript\t:tried()",
    "javascript&colon;tried()",
    "javascript&#58;tried()",
    "&#106;avascript:tried()",
    "&#x6A;&#x61;vascript:tried()",
    "java&Tab;script:tried()",
    "java&NewLine;script:tried()",
    "javascript://example.com/%0atried()",
    "javascript:%74ried()",
    "javascript%3Atried()",
    "vbscript:tried()",
    "data:text/html,<script>opener.tried()</script>",
    "data:text/html;base64,PHNjcmlwdD5vcGVuZXIudHJpZWQoKTwvc2NyaXB0Pg==",
    "DATA:text/html,<svg onload=opener.tried()>",
    "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' onload='opener.tried()'/>",
    "blob:https://evil.test/0f0a4f4e-0000-0000-0000-000000000000",
    "file:///etc/passwd",
    "filesystem:https://evil.test/temporary/x.html",
    "view-source:javascript:tried()",
    "feed:javascript:tried()",
    "intent://evil.test/#Intent;scheme=javascript;end",
    "\ue000javascript:tried()",
]

MARKUP = [
    "<script>tried()</script>",
    "<script src=https://evil.test/x.js></script>",
    "<img src=x onerror=tried()>",
    "<img src='javascript:tried()'>",
    "<svg onload=tried()><use href='data:image/svg+xml,x#x'/></svg>",
    "<svg><script>tried()</script></svg>",
    "<svg><a xlink:href='javascript:tried()'><text y=20>x</text></a></svg>",
    "<svg><image href=https://evil.test/svg.png /></svg>",
    "<math><mtext><table><mglyph><style><img src=x onerror=tried()>",
    "<iframe srcdoc='<script>parent.tried()</script>'></iframe>",
    "<iframe src=https://evil.test/frame></iframe>",
    "<object data=https://evil.test/object></object>",
    "<embed src=https://evil.test/embed>",
    "<link rel=stylesheet href=https://evil.test/x.css>",
    "<link rel=preload as=image href=https://evil.test/preload.png>",
    "<link rel=dns-prefetch href=https://evil.test>",
    "<link rel=icon href=https://evil.test/favicon.ico>",
    "<meta http-equiv=refresh content='0;url=https://evil.test/refresh'>",
    "<base href=https://evil.test/>",
    "<style>body { background: url(https://evil.test/style.png) }</style>",
    "<p style='background: url(https://evil.test/attribute.png)'>x</p>",
    "<table background=https://evil.test/table.png><tr><td background=https://evil.test/td.png>x",
    "<picture><source srcset=https://evil.test/source.png><img src=https://evil.test/p.png></picture>",
    "<img srcset='https://evil.test/set.png 1x, https://evil.test/set2.png 2x'>",
    "<img src='' lowsrc=https://evil.test/lowsrc.png dynsrc=https://evil.test/dynsrc.png>",
    "<video poster=https://evil.test/poster.png src=https://evil.test/video.mp4 autoplay></video>",
    "<audio src=https://evil.test/audio.mp3 autoplay></audio>",
    "<input type=image src=https://evil.test/input.png formaction=javascript:tried()>",
    "<form action=javascript:tried()><button>Go</button></form>",
    "<button formaction=javascript:tried() onclick=tried()>Go</button>",
    "<details open ontoggle=tried()>x</details>",
    "<a href='javascript:tried()' onclick=tried()>x</a>",
    "<a href=https://example.com ping=https://evil.test/ping>x</a>",
    "<map name=m><area href='javascript:tried()'></map><img usemap=#m>",
    "<p id=app class=dialog onmouseover=tried() tabindex=1 autofocus onfocus=tried()>x</p>",
    "<noscript><p title='</noscript><img src=x onerror=tried()>'>",
    "<template><img src=x onerror=tried()></template>",
    "<body background=https://evil.test/body.png onload=tried()>",
    "`<img src=x onerror=tried()>`",
    '![x](https://evil.test/a.png" onerror="tried())',
    '[x](<https://example.com/" onclick="tried()>)',
    '```html" onclick="tried()\n<script>tried()</script>\n```',
]

# JavaScript: every address in the document that isn't of a kind that the page may hold.
UNSAFE = """() => {
  const safe = new Set(["http:", "https:", "mailto:", "tel:"]);
  const names = ["href", "src", "action", "formaction", "xlink:href", "data", "poster", "srcset",
    "background", "ping", "srcdoc"];
  const found = [];
  const { shadowRoot } = document.querySelector("chatkit-trio");
  const all = [...document.querySelectorAll("*"), ...shadowRoot.querySelectorAll("*")];
  for (const element of all) {
    for (const name of names) {
      const value = element.getAttribute(name);
      if (value === null) continue;
      const { protocol, origin } = new URL(value, document.baseURI);
      const own = element.tagName === "IMG" && (protocol === "data:" || origin === location.origin);
      if (!safe.has(protocol) && !own) found.push(`${element.tagName} ${name}=${value}`);
    }
    for (const { name } of element.attributes) {
      if (name.startsWith("on")) found.push(`${element.tagName} ${name}`);
    }
  }
  return found;
}"""

_ids = count()


def app_items(answer: list[dict[str, Any]], thread: ThreadMetadata) -> list[ThreadItem]:
    """Return the items of an answer, with ids."""
    return [
        item["kind"].model_validate(
            {
                "id": f"item-{next(_ids)}",
                "thread_id": thread.id,
                "created_at": datetime.now(UTC),
                **{name: value for name, value in item.items() if name != "kind"},
            }
        )
        for item in answer
    ]


def message(text: str, *sources: str) -> dict[str, Any]:
    annotations = [
        Annotation(source=URLSource(title=f"Source {url!r}", url=url), index=1) for url in sources
    ]
    content = [AssistantMessageContent(text=text, annotations=annotations)]
    return {"kind": AssistantMessageItem, "content": content}


def widget(*children: dict[str, Any], **props: Any) -> dict[str, Any]:
    root = {"type": "Card", "children": list(children), **props}
    return {"kind": WidgetItem, "widget": DynamicWidgetRoot.model_validate(root)}


def picture(url: str) -> dict[str, Any]:
    return {"kind": GeneratedImageItem, "image": GeneratedImage(id="image", url=url)}


def steps(text: str, *sources: str) -> dict[str, Any]:
    found = [URLSource(title=f"Found {url!r}", url=url) for url in sources]
    tasks = [
        CustomTask(title="A task", content=text),
        ThoughtTask(title="A thought", content=text),
        SearchTask(title="A search", sources=found),
    ]
    return {"kind": WorkflowItem, "workflow": Workflow(type="custom", tasks=tasks, expanded=True)}


def links(urls: list[str]) -> list[dict[str, Any]]:
    """An answer with these addresses in every place that can hold a link."""
    inline = "\n\n".join(f"[link {n}](<{url}>)" for n, url in enumerate(urls) if "\n" not in url)
    raw = "\n\n".join(f'<a href="{url}">raw {n}</a>' for n, url in enumerate(urls))
    auto = "\n\n".join(f"<{url.strip()}>" for url in urls)
    references = "\n\n".join(f"[ref {n}]" for n in range(len(urls)))
    definitions = "\n".join(f"[ref {n}]: <{url.strip()}>" for n, url in enumerate(urls))
    shown = "\n\n".join(f"![image {n}](<{url}>)" for n, url in enumerate(urls))
    texts = [inline, raw, auto, f"{references}\n\n{definitions}", shown]
    return [
        *(message(text) for text in texts),
        message("Sources", *urls),
        steps(f"{inline}\n\n{raw}", *urls),
        *(picture(url) for url in urls),
        widget({"type": "Markdown", "value": f"{inline}\n\n{raw}"}),
        *(
            widget({"type": "Image", "src": url}, status={"text": "S", "favicon": url})
            for url in urls
        ),
    ]


def markup() -> list[dict[str, Any]]:
    """An answer with hostile HTML in every place that draws Markdown."""
    return [
        *(message(text) for text in MARKUP),
        *(steps(text) for text in MARKUP),
        *(widget({"type": "Markdown", "value": text}, status={"text": text}) for text in MARKUP),
    ]


def images(hosts: list[str]) -> list[dict[str, Any]]:
    """An answer with an image of each host in every place that can show one."""
    answer = []
    for host in hosts:
        url = f"https://{host}"
        styles = {
            "background": f"url({url}/background.png)",
            "border": {"size": 1, "color": f"url({url}/border.png)"},
            "padding": f"url({url}/padding.png)",
        }
        answer += [
            message(f"A chart:\n\n![A chart of sales]({url}/message.png)"),
            message(f"[![A badge]({url}/linked.png)](https://example.com/)"),
            steps(f"![In a step]({url}/step.png)"),
            {"kind": TaskItem, "task": CustomTask(title="T", content=f"![T]({url}/task.png)")},
            picture(f"{url}/generated.png"),
            widget(
                {"type": "Markdown", "value": f"![In a widget]({url}/widget-markdown.png)"},
                {"type": "Image", "src": f"{url}/widget.png", "alt": "A photo", "height": 140},
                {"type": "Image", "src": f"{url}/small.png", "alt": "A face", "size": 40},
                {"type": "Box", "children": [{"type": "Text", "value": "Styled"}], **styles},
                {"type": "Icon", "name": f"{url}/icon.svg"},
                status={"text": "From the web", "favicon": f"{url}/favicon.png"},
                background=f"url({url}/card.png)",
            ),
            {
                "kind": WidgetItem,
                "widget": DynamicWidgetRoot.model_validate(
                    {
                        "type": "ListView",
                        "children": [
                            {
                                "type": "ListViewItem",
                                "children": [
                                    {"type": "Image", "src": f"{url}/row.png", "size": 32},
                                    {"type": "Text", "value": "A row"},
                                ],
                            }
                        ],
                        "status": {"text": "Rows", "favicon": f"{url}/list-favicon.png"},
                    }
                ),
            },
        ]
    return answer


class HostileServer(ChatKitServer[Any]):
    """Answers a message with the list it names."""

    async def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: Any
    ) -> AsyncIterator[ThreadStreamEvent]:
        assert input_user_message is not None
        words = "".join(part.text for part in input_user_message.content).split()
        thread.title = "Hostile <img src=x onerror=tried()>"
        if "only" in words:
            thread.allowed_image_domains = words[words.index("only") + 1 :]
        for item in app_items(_answer(words[0]), thread):
            yield ThreadItemDoneEvent(item=item)
        yield NoticeEvent(level="info", title="N", message=_notice(words[0]))
        yield ThreadItemDoneEvent(item=app_items([message("That was all.")], thread)[0])


def _answer(name: str) -> list[dict[str, Any]]:
    if name == "links":
        return links(SCRIPT_URLS)
    return markup() if name == "markup" else images(["evil.test", "a.cdn.test"])


def _notice(name: str) -> str:
    if name == "links":
        return "\n\n".join(f'[n](<{url}>) <a href="{url}">n</a>' for url in SCRIPT_URLS)
    return "\n\n".join(MARKUP) if name == "markup" else "![N](https://evil.test/notice.png)"


app = create_app(HostileServer(MemoryStore()))
