"""<chatkit-trio> in a page of another origin, whose styles are as wild as such styles are."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from .kept_site import ROOT, expect, held_port

HOST = """<!doctype html>
<title>A shop</title>
<style>
  html { font-size: 10px; letter-spacing: 4px; text-transform: uppercase; }
  * { color: rgb(200, 0, 0); font-family: fantasy; --text: rgb(200, 0, 0); --surface: yellow; }
  body { background: rgb(255, 243, 214); line-height: 3; }
  button, .button { background: hotpink; border: 9px solid; }
  .message { display: none; }
  #frame { width: 900px; height: 620px; }
</style>
<h1 class="header-title">A shop</h1>
<button id="own">Buy</button>
<div id="frame">BODY</div>
<script type="module" src="CHAT/chatkit-trio.js"></script>
<script>
  const events = [];
  const chat = () => document.querySelector("chatkit-trio");
  const names = ["ready", "error", "effect", "deeplink", "response.start", "response.end",
    "thread.change", "thread.load.start", "thread.load.end", "tool.change", "log"];
  for (const name of names) {
    window.addEventListener(`chatkit.${name}`, ({ detail }) => events.push([name, detail]));
  }
</script>
"""


class Host:
    """A site of its own, whose page has what a test puts into it."""

    def __init__(self) -> None:
        self.body = ""
        self.chat = ""
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page = HOST.replace("BODY", host.body).replace("CHAT", host.chat).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.end_headers()
                self.wfile.write(page)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.origin = f"http://localhost:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    host = Host()
    target = "tests.browser.embedded:app"
    with held_port() as held:
        port = str(held.getsockname()[1])
        host.chat = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "chatkit_trio", "serve", target, "--port", port]
        env = os.environ | {"HOST_ORIGIN": host.origin, "CHAT_URL": host.chat}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=env
        ) as site:
            try:
                assert host.chat in site.stdout.readline()  # type: ignore[union-attr]
                yield host
            finally:
                site.terminate()
                host.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1000, "height": 800})
    context.set_default_timeout(15_000)
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    yield page
    context.close()
    assert problems == []


def show(
    page: Any, host: Host, options: str = "{}", body: str = "<chatkit-trio></chatkit-trio>"
) -> None:
    """Show the host's page, and give its chat these options, as JavaScript."""
    host.body = body
    page.goto(host.origin)
    page.evaluate("customElements.whenDefined('chatkit-trio').then(() => {})")
    api = f"api: {{ url: '{host.chat}/chatkit', ...given.api }}"
    page.evaluate(
        f"(() => {{ const given = {options}; chat().setOptions({{ ...given, {api} }}) }})()"
    )
    expect(page.get_by_test_id("composer").first).to_be_visible()


def send(page: Any, text: str) -> None:
    page.get_by_test_id("composer").fill(text)
    page.get_by_test_id("composer").press("Enter")


def answer(page: Any) -> Any:
    return page.get_by_test_id("message-assistant").last


def answered(page: Any) -> dict[str, Any]:
    """What the server says of the message that it got."""
    code = answer(page).locator("code")
    expect(code).to_contain_text('"attachments"')
    return json.loads(code.inner_text())


def events(page: Any, *names: str) -> list[Any]:
    return [each for each in page.evaluate("events") if each[0] in names]


# --- One tag ------------------------------------------------------------------------------------


def test_one_tag_is_a_whole_chat(page: Any, host: Host) -> None:
    host.body = f'<chatkit-trio url="{host.chat}/chatkit"></chatkit-trio>'
    page.goto(host.origin)
    send(page, "Hello")

    assert answered(page)["content"] == [{"text": "Hello"}]
    assert page.evaluate("location.hash") == ""
    assert page.title() == "A shop"


def test_nothing_of_the_host_gets_in_and_nothing_gets_out(page: Any, host: Host) -> None:
    show(page, host)
    send(page, "Hello")
    expect(answer(page)).to_be_visible()

    style = "(e) => { const { color, fontFamily, fontSize, letterSpacing, textTransform } ="
    style += " getComputedStyle(e); return [color, fontSize, letterSpacing, textTransform] }"
    inside = page.locator(".bubble").evaluate(style)
    assert inside == ["rgb(28, 31, 33)", "15px", "normal", "none"]
    assert page.locator(".send").evaluate("(e) => getComputedStyle(e).borderTopWidth") == "0px"
    own = page.locator("#own").evaluate("(e) => getComputedStyle(e).backgroundColor")
    assert own == "rgb(255, 105, 180)"
    assert page.locator("h1").evaluate("(e) => getComputedStyle(e).flexGrow") == "0"


def test_the_host_keeps_the_focus_the_history_and_its_keys(page: Any, host: Host) -> None:
    page.goto("about:blank")
    host.body = f'<input id="search"><chatkit-trio url="{host.chat}/chatkit"></chatkit-trio>'
    page.goto(host.origin)
    page.locator("#search").focus()
    expect(page.get_by_test_id("composer")).to_be_visible()
    page.keyboard.type("shoes")
    before = page.evaluate("history.length")
    send(page, "slowly")
    expect(answer(page)).to_contain_text("3")
    page.locator("#search").press("Escape")  # the host's own
    for key in "NLMK":
        page.locator("#search").press(f"Alt+Shift+{key}")

    expect(answer(page)).to_contain_text("30")
    assert page.locator("#search").input_value() == "shoes"
    assert page.evaluate("history.length") == before
    page.get_by_test_id("composer").press("Escape")
    expect(page.get_by_test_id("end-mark")).to_contain_text("You stopped this answer")
    page.get_by_test_id("composer").press("Alt+Shift+N")
    expect(page.get_by_test_id("welcome")).to_be_visible()


def test_two_elements_are_two_chats(page: Any, host: Host) -> None:
    show(page, host, body="<chatkit-trio></chatkit-trio><chatkit-trio id='two'></chatkit-trio>")
    api = f"{{ api: {{ url: '{host.chat}/chatkit' }}, locale: 'de' }}"
    page.evaluate(f"document.querySelector('#two').setOptions({api})")
    one, two = (page.locator("chatkit-trio").nth(number) for number in (0, 1))
    for chat, text in ((one, "The first"), (two, "The second")):
        chat.get_by_test_id("composer").fill(text)
        chat.get_by_test_id("composer").press("Enter")
        expect(chat.get_by_test_id("message-assistant")).to_contain_text(text)

    expect(one.get_by_test_id("message-user")).to_have_count(1)
    expect(two.get_by_test_id("message-user")).to_have_count(1)
    assert one.get_by_test_id("composer").get_attribute("aria-label") == "Message"
    assert two.get_by_test_id("composer").get_attribute("aria-label") == "Nachricht"


def test_an_element_that_is_moved_goes_on_and_one_that_is_back_has_its_thread(
    page: Any, host: Host
) -> None:
    show(page, host)
    send(page, "slowly")
    expect(answer(page)).to_contain_text("5")
    page.evaluate("document.body.prepend(chat())")
    expect(answer(page)).to_contain_text("40")
    expect(page.get_by_test_id("end-mark")).to_have_count(0)

    page.evaluate("window.kept = chat(); kept.remove()")
    page.wait_for_timeout(300)
    page.evaluate("document.querySelector('#frame').append(kept)")
    expect(page.get_by_test_id("message-user")).to_contain_text("slowly")
    expect(answer(page)).to_contain_text("40")


def test_the_chat_of_an_empty_element_waits_for_its_options(page: Any, host: Host) -> None:
    host.body = "<chatkit-trio></chatkit-trio>"
    page.goto(host.origin)
    page.evaluate("customElements.whenDefined('chatkit-trio').then(() => {})")
    page.evaluate("void chat().sendUserMessage({ text: 'Early' })")
    page.evaluate(f"chat().setOptions({{ api: {{ url: '{host.chat}/chatkit' }} }})")

    expect(page.get_by_test_id("message-user")).to_contain_text("Early")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("{}", "the option api.url is missing"),
        ("{ api: { getClientSecret() {} } }", "api.getClientSecret is for OpenAI's own service"),
        ("{ api: { url: '/x' }, header: 7 }", "the option header has to be an object"),
        ("7", "setOptions wants an object"),
        ("{ api: { url: '/x', fetch: 7 } }", "the option api.fetch has to be a function"),
        ("{ api: { url: '/x' }, locale: 7 }", "the option locale has to be a string"),
        ("{ api: { url: '/x' }, initialThread: 7 }", "initialThread has to be a string"),
        ("{ api: { url: '/x' }, header: { title: 'A' } }", "header.title has to be an object"),
        ("{ api: { url: '/x' }, composer: { tools: {} } }", "composer.tools has to be a list"),
        (
            "{ api: { url: '/x' }, startScreen: { prompts: ['Hello'] } }",
            "the option startScreen.prompts has to be a list of objects",
        ),
        (
            "{ api: { url: '/x' }, theme: { color: { accent: 'red' } } }",
            "the option theme.color.accent has to be an object",
        ),
    ],
)
def test_options_that_can_not_be_are_said_to_be_so(
    page: Any, host: Host, options: str, words: str
) -> None:
    host.body = "<chatkit-trio></chatkit-trio>"
    page.goto(host.origin)
    page.evaluate("customElements.whenDefined('chatkit-trio').then(() => {})")
    said = page.evaluate(
        "(given) => new Promise((resolve) => { chat().addEventListener('chatkit.error',"
        " ({ detail }) => resolve(detail.error.message));"
        " chat().setOptions(new Function(`return ${given}`)()) })",
        options,
    )

    assert words in said


# --- Options -------------------------------------------------------------------------------------


def test_headers_and_tokens_come_from_the_hosts_fetch(page: Any, host: Host) -> None:
    fetch = """(url, init) => fetch(url, { ...init, headers: { ...init.headers,
      Authorization: `Bearer ${window.token}` } })"""
    host.body = "<chatkit-trio></chatkit-trio>"
    page.goto(host.origin)
    page.evaluate("window.token = 'good'")
    asked: list[str | None] = []
    page.on(
        "request",
        lambda r: (
            asked.append(r.headers.get("authorization"))
            if "/chatkit" in r.url and r.method == "POST"
            else None
        ),
    )
    page.evaluate("customElements.whenDefined('chatkit-trio').then(() => {})")
    page.evaluate(
        f"chat().setOptions({{ api: {{ url: '{host.chat}/chatkit', fetch: {fetch} }},"
        " signInUrl: '/login' })"
    )
    send(page, "Hello")
    answered(page)
    expect(page.get_by_test_id("signed-out")).to_have_count(0)

    page.evaluate("window.token = 'expired'")
    send(page, "And now?")
    expect(page.get_by_test_id("signed-out")).to_contain_text("You are signed out")
    link = page.get_by_test_id("signed-out").get_by_role("link", name="Sign in")
    assert link.get_attribute("href") == "/login"
    expect(page.get_by_test_id("unsent")).to_contain_text("And now?")
    assert page.evaluate("events.filter(([name]) => name === 'error').length") >= 1

    page.evaluate("window.token = 'good'")
    page.get_by_test_id("unsent").get_by_role("button", name="Try again").click()
    assert answered(page)
    expect(page.get_by_test_id("signed-out")).to_have_count(0)
    assert set(asked) == {"Bearer good", "Bearer expired"}


def color(page: Any, selector: str, name: str) -> str:
    return page.locator(selector).first.evaluate(f"(e) => getComputedStyle(e).{name}")


def test_the_theme_is_the_hosts(page: Any, host: Host) -> None:
    show(
        page,
        host,
        """{ theme: { colorScheme: 'dark', radius: 'sharp', density: 'compact',
          typography: { baseSize: 18, fontFamily: 'Georgia, serif' },
          color: { accent: { primary: '#ff0066', level: 2 },
                   surface: { background: '#101820', foreground: '#f0f0f0' } } } }""",
    )

    assert color(page, ".app", "backgroundColor") == "rgb(16, 24, 32)"
    assert color(page, ".app", "fontSize") == "18px"
    assert color(page, ".app", "fontFamily") == "Georgia, serif"
    assert color(page, ".composer-box", "borderTopLeftRadius") == "0px"
    send(page, "Hello")
    answered(page)
    page.get_by_test_id("composer").fill("More")
    expect(page.locator(".send")).to_have_css("background-color", "rgb(255, 0, 102)")

    page.evaluate(f"chat().setOptions({{ api: {{ url: '{host.chat}/chatkit' }}, theme: 'light' }})")
    expect(page.locator(".app")).to_have_css("background-color", "rgb(255, 255, 255)")
    expect(page.get_by_test_id("message-user")).to_contain_text("Hello")  # the thread stays
    expect(page.get_by_test_id("composer")).to_have_value("More")


CONTRAST = """() => {
  const { shadowRoot: root } = chat();
  const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const luminance = (color) => {
    context.fillStyle = color;
    context.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data].slice(0, 3).map((each) => {
      const part = each / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const probe = root.querySelector(".app").appendChild(document.createElement("span"));
  const valueOf = (name) => {
    probe.style.color = `var(${name})`;
    return luminance(getComputedStyle(probe).color);
  };
  const worst = Math.min(...["--text", "--text-secondary", "--text-tertiary"].flatMap((text) =>
    ["--surface", "--surface-secondary", "--surface-tertiary", "--surface-elevated",
      "--surface-elevated-secondary", "--sidebar"].map((surface) => {
      const [dark, light] = [valueOf(text), valueOf(surface)].sort((a, b) => a - b);
      return (light + 0.05) / (dark + 0.05);
    })));
  probe.remove();
  return worst;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_greys_have_the_hue_of_the_host_and_can_be_read(
    page: Any, host: Host, scheme: str
) -> None:
    theme = "{{ theme: {{ colorScheme: '{}', color: {{ grayscale: {{ hue: 220{} }} }} }} }}"
    show(page, host, theme.format(scheme, ", tint: 9"))
    tinted = color(page, ".composer-box", "borderTopColor")
    lightness, chroma, hue = (float(each) for each in re.findall(r"[\d.]+", tinted))
    assert (chroma, hue) == (0.0405, 220)

    shades = {}
    for shade in (-4, 0, 4):
        for tint in (0, 9):
            options = theme.format(scheme, f", tint: {tint}, shade: {shade}")
            page.evaluate(
                f"chat().setOptions({{ api: {{ url: '{host.chat}/chatkit' }}, ...{options} }})"
            )
            border = re.compile(rf"^oklch\(\S+ {0.0405 if tint else 0} 220\)$")
            expect(page.locator(".composer-box")).to_have_css("border-top-color", border)
            assert page.evaluate(CONTRAST) >= 4.5, (shade, tint)
        shades[shade] = float(color(page, ".composer-box", "borderTopColor")[6:].split()[0])
    assert shades[-4] > shades[0] == lightness > shades[4]


FONTS = sorted(Path("/usr/share/fonts").rglob("*.ttf"))


@pytest.mark.skipif(not FONTS, reason="there is no font on this machine to serve")
def test_fonts_come_from_where_the_host_says(page: Any, host: Host) -> None:
    asked: list[str] = []

    def send_font(route: Any) -> None:
        asked.append(route.request.url)
        route.fulfill(path=FONTS[0], headers={"Access-Control-Allow-Origin": "*"})

    page.route("**/fonts/*", send_font)
    source = "{ family: 'Shop Sans', src: '/fonts/shop (1).ttf', weight: 400, display: 'block' }"
    typography = f"{{ fontFamily: '\"Shop Sans\", serif', fontSources: [{source}, {source}] }}"
    show(page, host, f"{{ theme: {{ typography: {typography} }} }}")
    send(page, "Hello")
    answered(page)

    page.wait_for_function(
        "document.fonts.size === 1 && [...document.fonts][0].status === 'loaded'"
    )
    assert color(page, ".bubble", "fontFamily") == '"Shop Sans", serif'
    assert color(page, ".app", "fontFamily") == '"Shop Sans", serif'
    assert asked == [f"{host.origin}/fonts/shop%20(1).ttf"]
    assert page.evaluate("document.fonts.check('15px \"Shop Sans\"', 'Hello')")


def test_a_font_that_can_t_be_had_leaves_the_next_one(page: Any, host: Host) -> None:
    bad = "[{ family: 'None', src: '/fonts/none.ttf', weight: 'so so' }, { family: 'No source' }]"
    show(page, host, f"{{ theme: {{ typography: {{ fontSources: {bad} }} }} }}")
    send(page, "Hello")
    assert answered(page)


def choose(page: Any, name: str, kind: str, data: bytes) -> None:
    files = {"name": name, "mimeType": kind, "buffer": data}
    page.get_by_test_id("attach-input").set_input_files(files)


DIRECT = """{{ api: {{ uploadStrategy: {{ type: 'direct', uploadUrl: '{0}/attachments' }},
    fetch: (url, init) => {{ events.push(['fetch', url]); return fetch(url, init) }} }},
  composer: {{ attachments: {{ enabled: true }} }} }}"""


def test_files_go_to_the_one_address_of_the_host(page: Any, host: Host) -> None:
    show(page, host, DIRECT.format(host.chat))
    choose(page, "notes.txt", "text/plain", b"buy oranges")
    expect(page.locator(".entry.is-ready")).to_have_count(1)
    send(page, "look")
    assert answered(page)["attachments"] == ["notes.txt"]
    assert events(page, "fetch").count(["fetch", f"{host.chat}/attachments"]) == 1
    with page.expect_download() as started:
        page.get_by_test_id("download").click()
    assert Path(started.value.path()).read_bytes() == b"buy oranges"


def test_a_file_that_the_one_address_refuses_is_told_of(page: Any, host: Host) -> None:
    show(page, host, DIRECT.format(host.chat))
    toasts = page.get_by_test_id("toast")
    choose(page, "a.zip", "application/zip", b"PK")
    expect(toasts.last).to_contain_text("a.zip: Files of this kind")
    choose(page, "big.txt", "text/plain", b"x" * 30_000)
    expect(toasts.last).to_contain_text("big.txt: That is too large.")
    said: list[str] = []
    page.route(
        "**/attachments",
        lambda route: route.fulfill(body=said[-1], headers={"Access-Control-Allow-Origin": "*"}),
    )
    for number, answer in enumerate(('{"ok": true}', "<html>", "null"), start=3):
        said.append(answer)
        choose(page, f"{number}.txt", "text/plain", b"some text")
        expect(toasts.last).to_contain_text(f"{number}.txt: The server")
        expect(toasts.last).to_contain_text("answer could not be read")
    page.unroute("**/attachments")
    expect(page.locator(".entry.is-failed")).to_have_count(5)
    page.get_by_role("button", name="Upload 3.txt again").click()
    expect(page.locator(".entry.is-ready")).to_have_count(1)
    for _ in range(4):
        page.locator(".entry.is-failed").first.get_by_test_id("attachment-remove").click()
    send(page, "look")
    assert answered(page)["attachments"] == ["3.txt"]


@pytest.mark.parametrize(
    ("locale", "label", "direction"),
    [
        ("de", "Nachricht", "ltr"),
        ("fr-CA", "Message", "ltr"),
        ("es-419", "Mensaje", "ltr"),
        ("ar", "الرسالة", "rtl"),
        ("ja-JP", "メッセージ", "ltr"),
        ("tlh", "Message", "ltr"),
    ],
)
def test_the_chat_speaks_the_language_of_the_host(
    page: Any, host: Host, locale: str, label: str, direction: str
) -> None:
    show(page, host, f"{{ locale: '{locale}' }}")

    expect(page.get_by_test_id("composer")).to_have_attribute("aria-label", label)
    assert color(page, ".app", "direction") == direction


def test_the_header_is_as_the_host_wants_it(page: Any, host: Host) -> None:
    show(
        page,
        host,
        """{ header: { title: { text: 'Help' },
          leftAction: { icon: 'home', onClick() { events.push(['left']) } },
          rightAction: { icon: 'close', label: 'Shut',
            onClick() { events.push(['right']) } } } }""",
    )
    expect(page.get_by_test_id("thread-title")).to_have_text("Help")
    page.get_by_test_id("header-left").click()
    page.get_by_role("button", name="Shut").click()
    assert events(page, "left", "right") == [["left"], ["right"]]

    show(page, host, "{ header: { enabled: false }, history: { enabled: false } }")
    expect(page.get_by_test_id("thread-title")).to_have_count(0)
    expect(page.get_by_test_id("menu")).to_have_count(0)


def test_the_history_is_as_the_host_wants_it(page: Any, host: Host) -> None:
    show(page, host, "{ history: { showDelete: false, showRename: false } }")
    send(page, "Hello")
    answered(page)
    page.evaluate("void chat().showHistory()")
    row = page.get_by_test_id("thread-item").first
    expect(row).to_be_visible()
    row.hover()
    expect(page.get_by_test_id("delete")).to_have_count(0)
    expect(page.get_by_test_id("rename")).to_have_count(0)
    page.evaluate("void chat().hideHistory()")
    expect(row).to_be_hidden()


def test_the_start_screen_and_the_disclaimer_are_the_hosts(page: Any, host: Host) -> None:
    show(
        page,
        host,
        """{ startScreen: { greeting: 'Hi there', prompts: [
            { label: 'Plain', prompt: 'A plain question', icon: 'bolt' },
            { label: 'Tagged', prompt: [{ type: 'input_text', text: 'What of ' },
              { type: 'input_tag', id: 'o1', text: 'Order 1', data: {} }] }] },
          composer: { placeholder: 'Ask the shop' },
          disclaimer: { text: 'We may be *wrong*.', highContrast: true } }""",
    )
    expect(page.get_by_test_id("welcome")).to_contain_text("Hi there")
    expect(page.get_by_test_id("composer")).to_have_attribute("placeholder", "Ask the shop")
    expect(page.get_by_test_id("disclaimer").locator("em")).to_have_text("wrong")
    page.get_by_test_id("prompt").filter(has_text="Tagged").click()

    told = answered(page)["content"]
    assert [part["text"] for part in told] == ["What of ", "Order 1"]
    assert told[1]["id"] == "o1"


def test_answers_have_the_buttons_that_the_host_wants(page: Any, host: Host) -> None:
    show(page, host)
    send(page, "Hello")
    answered(page)
    expect(page.get_by_test_id("copy").last).to_be_visible()
    expect(page.get_by_test_id("feedback-positive")).to_have_count(0)
    expect(page.get_by_test_id("retry")).to_have_count(0)

    page.evaluate(
        f"chat().setOptions({{ api: {{ url: '{host.chat}/chatkit' }},"
        " threadItemActions: { feedback: true, retry: true } })"
    )
    expect(page.get_by_test_id("feedback-positive")).to_be_visible()
    expect(page.get_by_test_id("retry")).to_be_visible()


TOOLS = """{ composer: {
  tools: [{ id: 'web', label: 'Search the web', shortLabel: 'Web', icon: 'globe',
            placeholderOverride: 'Search for' },
          { id: 'deep', label: 'Think', icon: 'lightbulb', pinned: true, persistent: true }],
  models: [{ id: 'small', label: 'Small', description: 'Quick', default: true },
           { id: 'big', label: 'Big' }, { id: 'none', label: 'Sold out', disabled: true }] } }"""


def test_tools_and_models_are_chosen_in_the_composer(page: Any, host: Host) -> None:
    show(page, host, TOOLS)
    page.get_by_test_id("tools").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("chosen-tool")).to_contain_text("Web")
    expect(page.get_by_test_id("composer")).to_have_attribute("placeholder", "Search for")
    send(page, "One")
    assert answered(page)["options"] == {"tool_choice": {"id": "web"}, "model": "small"}
    expect(page.get_by_test_id("chosen-tool")).to_have_count(0)

    page.get_by_test_id("pinned-tool").click()
    page.get_by_test_id("models").click()
    expect(page.get_by_role("menuitemradio", name="Sold out")).to_be_disabled()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    for text in ("Two", "Three"):  # this tool stays
        send(page, text)
        expect(answer(page)).to_contain_text(text)
        assert answered(page)["options"] == {"tool_choice": {"id": "deep"}, "model": "big"}
    chosen = [detail["toolId"] for _, detail in events(page, "tool.change")]
    assert chosen == ["web", None, "deep"]


ENTITIES = """{ entities: { showComposerMenu: true,
  async onTagSearch(query) {
    const ada = { id: 'p1', title: 'Ada Lovelace', group: 'People' };
    const all = [{ ...ada, interactive: true, data: { team: 'x' } },
      { id: 'p2', title: 'Ada', group: 'People' },
      { id: 'd1', title: 'Doc (2)', group: 'Documents' }];
    return all.filter(({ title }) => title.toLowerCase().startsWith(query.toLowerCase()));
  },
  onClick(entity) { events.push(['clicked', entity.id]) },
  async onRequestPreview(entity) {
    const text = { type: 'Text', value: `About ${entity.title}` };
    return { preview: { type: 'Basic', children: [text] } };
  } } }"""


def test_things_of_the_host_are_mentioned_with_a_preview(page: Any, host: Host) -> None:
    show(page, host, ENTITIES)
    composer = page.get_by_test_id("composer")
    composer.press_sequentially("Ask @ada")
    expect(page.get_by_test_id("mention-option")).to_have_count(2)
    expect(page.get_by_test_id("entity-preview")).to_contain_text("About Ada Lovelace")
    composer.press("Enter")
    expect(composer).to_have_value("Ask @Ada Lovelace ")
    composer.press_sequentially("of @Doc")
    page.get_by_test_id("mention-option").click()
    composer.press_sequentially("or @nobody")
    expect(page.get_by_test_id("mention-option")).to_have_count(0)
    composer.press("Enter")

    told = answered(page)["content"]
    assert [part["text"] for part in told] == [
        "Ask ",
        "Ada Lovelace",
        " of ",
        "Doc (2)",
        " or @nobody",
    ]
    assert [part.get("id") for part in told] == [None, "p1", None, "d1", None]
    assert told[1]["data"] == {"team": "x"}
    tag = page.get_by_test_id("message-user").get_by_role("button", name="@Ada Lovelace")
    tag.hover()
    expect(page.get_by_test_id("entity-preview")).to_contain_text("About Ada Lovelace")
    tag.click()
    assert events(page, "clicked") == [["clicked", "p1"]]

    page.get_by_test_id("mention").click()
    expect(page.get_by_test_id("mention-option")).to_have_count(3)
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("mention-option")).to_have_count(0)


def test_what_is_typed_at_once_after_a_mention_stands_behind_it(page: Any, host: Host) -> None:
    show(page, host, ENTITIES)
    composer = page.get_by_test_id("composer")
    composer.press_sequentially("Ask @ada l")
    page.get_by_test_id("mention-option").evaluate(
        "(option) => { option.click(); document.execCommand('insertText', false, 'or @ted'); }"
    )
    expect(composer).to_have_value("Ask @Ada Lovelace or @ted")
    page.get_by_test_id("mention").evaluate(
        "(button) => { button.click(); document.execCommand('insertText', false, 'ada'); }"
    )
    expect(composer).to_have_value("Ask @Ada Lovelace or @ted @ada")


def test_a_draft_keeps_its_mentions(page: Any, host: Host) -> None:
    show(page, host, ENTITIES)
    page.get_by_test_id("composer").press_sequentially("Ask @ada l")
    page.get_by_test_id("mention-option").click()
    expect(page.get_by_test_id("tag")).to_have_count(1)
    show(page, host, ENTITIES)
    page.get_by_test_id("composer").press("Enter")

    assert [part.get("id") for part in answered(page)["content"]] == [None, "p1"]


def test_widgets_and_client_tools_reach_the_host(page: Any, host: Host) -> None:
    show(
        page,
        host,
        """{ onClientTool({ name, params }) { return { at: 'home', name, params } },
          widgets: { async onAction(action, item) {
            events.push(['action', action.type, action.payload, item.widget.type]);
            await chat().sendCustomAction({ type: 'back', payload: { n: 3 } }, item.id);
          } } }""",
    )
    send(page, "a tool")
    expect(answer(page)).to_contain_text('"at": "home"')
    expect(answer(page)).to_contain_text('"precise": true')
    expect(page.get_by_test_id("tool").locator("summary")).to_contain_text("Get current place")
    send(page, "a widget")
    page.get_by_role("button", name="There").click()
    expect(answer(page)).to_contain_text('Action there {"n": 2} of widget')
    page.get_by_role("button", name="Here", exact=True).click()
    expect(answer(page)).to_contain_text('Action back {"n": 3} of widget')
    assert events(page, "action") == [["action", "here", {"n": 1}, "Card"]]


def test_an_answer_that_is_a_widget_has_the_buttons_of_an_answer(page: Any, host: Host) -> None:
    show(page, host, "{ threadItemActions: { retry: true } }")
    send(page, "a widget")
    widget = page.get_by_test_id("widget")
    expect(widget).to_have_count(1)
    buttons = page.locator(".items .message-buttons").last
    expect(buttons.get_by_test_id("copy")).to_be_visible()
    first = widget.get_attribute("data-item-id")
    buttons.get_by_test_id("retry").click()
    expect(page.locator(f"[data-item-id='{first}']")).to_have_count(0)
    expect(widget).to_have_count(1)
    expect(page.locator(".items .message-buttons").last.get_by_test_id("retry")).to_be_visible()


def test_another_server_is_another_chat(page: Any, host: Host) -> None:
    show(page, host, "{ history: { sidebar: true } }")
    send(page, "slowly, please")
    expect(answer(page)).to_contain_text("3")
    thread = events(page, "thread.change")[-1][1]["threadId"]
    page.evaluate("chat().setThreadId(null)")
    page.evaluate(
        "(url) => fetch(url, { method: 'POST' }).then(() => {})",
        f"{host.chat}/chatkit/threads/{thread}/stop",
    )
    expect(page.get_by_role("img", name="New answer")).to_have_count(1)
    page.get_by_test_id("search").fill("please")
    expect(page.get_by_test_id("hit")).not_to_have_count(0)

    held: list[Any] = []
    old = {"id": "thr_old", "created_at": "2020-01-01T00:00:00Z", "title": "Of the old server"}
    old |= {"status": {"type": "active"}, "items": {"data": [], "has_more": False}}
    page.route(f"{host.chat}/chatkit/threads?*", lambda route: held.append(route))
    page.evaluate("chat().fetchUpdates()  && null")
    other = host.chat.replace("127.0.0.1", "localhost")
    page.evaluate(
        f"chat().setOptions({{ api: {{ url: '{other}/chatkit' }}, history: {{ sidebar: true }} }})"
    )
    expect(page.get_by_test_id("search")).to_have_value("")
    expect(page.get_by_test_id("thread-item").first).to_be_visible()
    held[0].fulfill(
        json={"data": [old], "has_more": False}, headers={"Access-Control-Allow-Origin": "*"}
    )
    page.wait_for_timeout(300)

    expect(page.get_by_test_id("hit")).to_have_count(0)
    expect(page.get_by_role("img", name="New answer")).to_have_count(0)
    expect(page.get_by_test_id("thread-item").filter(has_text="Of the old server")).to_have_count(0)
    page.get_by_test_id("search").fill("please")
    expect(page.get_by_test_id("hit").first).to_contain_text("slowly, please")


# --- Methods and events --------------------------------------------------------------------------


def test_a_host_sends_writes_and_turns_pages(page: Any, host: Host) -> None:
    show(page, host, TOOLS)
    page.evaluate(
        "chat().setComposerValue({ text: 'Half a', reply: 'As I said', selectedToolId: 'web' })"
    )
    expect(page.get_by_test_id("composer")).to_have_value("Half a")
    page.evaluate("chat().focusComposer()")
    page.keyboard.type(" thought")
    page.keyboard.press("Enter")
    told = answered(page)
    assert (told["content"], told["quoted"]) == ([{"text": "Half a thought"}], "As I said")
    assert told["options"]["tool_choice"] == {"id": "web"}
    first = page.evaluate("events.findLast(([name]) => name === 'thread.change')[1].threadId")

    page.evaluate(
        "chat().sendUserMessage({ text: 'Anew', newThread: true, model: 'big',"
        " toolChoice: { id: 'deep' } })"
    )
    expect(answer(page)).to_contain_text("Anew")
    expect(page.get_by_test_id("message-user")).to_have_count(1)
    assert answered(page)["options"] == {"tool_choice": {"id": "deep"}, "model": "big"}
    page.evaluate("(id) => chat().setThreadId(id)", first)
    expect(page.get_by_test_id("message-user")).to_contain_text("Half a thought")
    page.evaluate("chat().setThreadId(null)")
    expect(page.get_by_test_id("welcome")).to_be_visible()


def test_a_host_is_told_what_happens(page: Any, host: Host) -> None:
    show(page, host)
    send(page, "an effect")
    answered(page)
    expect(page.locator("chatkit-trio")).to_have_attribute("data-state", "idle")
    seen = [name for name, _ in page.evaluate("events") if name != "log"]
    assert seen == ["ready", "response.start", "thread.change", "effect", "response.end"]
    assert events(page, "effect") == [["effect", {"name": "blink", "data": {"times": 2}}]]
    logged = {detail["name"] for _, detail in events(page, "log")}
    assert {"thread.created", "thread.item.done"} <= logged

    thread = events(page, "thread.change")[-1][1]["threadId"]
    page.evaluate("events.length = 0")
    page.evaluate("(id) => chat().setThreadId(null).then(() => chat().setThreadId(id))", thread)
    show(page, host, f"{{ initialThread: '{thread}' }}")
    expect(page.get_by_test_id("message-user")).to_contain_text("an effect")
    loads = [
        [name, detail["threadId"]]
        for name, detail in events(page, "thread.load.start", "thread.load.end")
    ]
    assert loads == [["thread.load.start", thread], ["thread.load.end", thread]]

    send(page, "fail")
    expect(page.get_by_test_id("error")).to_contain_text("That was too much for me.")
    messages = page.evaluate(
        "events.filter(([name]) => name === 'error').map(([, { error }]) => error.message)"
    )
    assert messages == ["That was too much for me."]


def test_a_link_to_the_host_is_told_to_it(page: Any, host: Host) -> None:
    link = "[the cart](chatkit-link://cart/open?item=7&from=chat)"
    page.route("**/chatkit", lambda route: route.continue_())
    show(page, host, f"{{ disclaimer: {{ text: 'Open {link}.' }} }}")
    page.get_by_role("link", name="the cart").click()

    told = {"name": "cart/open", "data": {"item": "7", "from": "chat"}}
    assert events(page, "deeplink") == [["deeplink", told]]


def test_what_has_happened_elsewhere_is_fetched(page: Any, host: Host) -> None:
    show(page, host)
    send(page, "Hello")
    answered(page)
    thread = events(page, "thread.change")[-1][1]["threadId"]
    page.evaluate(
        """async ([url, id]) => {
          const content = [{ type: 'input_text', text: 'Elsewhere' }];
          const input = { content, attachments: [], inference_options: {} };
          const params = { thread_id: id, input };
          const body = JSON.stringify({ type: 'threads.add_user_message', params });
          const headers = { 'Content-Type': 'application/json' };
          await (await fetch(url, { method: 'POST', headers, body })).text();
        }""",
        [f"{host.chat}/chatkit", thread],
    )
    expect(page.get_by_test_id("message-user")).to_have_count(1)
    page.evaluate("chat().fetchUpdates()")

    expect(page.get_by_test_id("message-user")).to_have_count(2)


# --- React ---------------------------------------------------------------------------------------

PAGE = ROOT / "chatkit_trio" / "web" / "page"
NODE = shutil.which("node")
CAN_BUNDLE = (
    NODE is not None
    and (PAGE / "node_modules" / "esbuild").is_dir()
    and (ROOT / "tests" / "clients" / "node_modules" / "react-dom").is_dir()
)


@pytest.mark.skipif(not CAN_BUNDLE, reason="node, or what npm installs, isn't there")
def test_an_app_of_react_bundles_the_package_and_shows_the_chat(
    page: Any, host: Host, tmp_path: Path
) -> None:
    package = tmp_path / "node_modules" / "chatkit-trio"
    for script, *given in (
        (PAGE / "build.mjs", "--npm", package, "0.1.0"),
        (ROOT / "tests" / "browser" / "react_app.mjs", tmp_path),
    ):
        subprocess.run([str(each) for each in (NODE, script, *given)], check=True, timeout=100)

    def send_built(route: Any) -> None:
        name = route.request.url.rpartition("/")[2]
        route.fulfill(path=tmp_path / "built" / name, content_type="text/javascript")

    page.route("**/built/*", send_built)
    page.route("**/chatkit-trio.js", lambda route: route.fulfill(body=""))  # the bundle has it
    host.body = (
        f"<div id='root'></div><script>window.chatUrl = '{host.chat}/chatkit'</script>"
        "<script type='module' src='/built/app.js'></script>"
    )
    page.goto(host.origin)
    page.get_by_role("button", name="Count").click()
    page.get_by_role("button", name="Count").click()
    expect(page.locator("#count")).to_have_text("2")
    page.locator("#ask").click()

    # The newest functions are called, though the chat was given its options once.
    expect(answer(page)).to_contain_text('The tool said: {"count": 2}')
    expect(page.locator("#thread")).to_have_text(re.compile("^thr_"))
    expect(page.get_by_test_id("message-user")).to_have_count(1)
