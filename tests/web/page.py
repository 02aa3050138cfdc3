"""ComfyUI's page in a real Chromium, as a user has it before them.

    with open_browser() as browser, open_page(browser, host, "vue") as page:
        page.load(template("lora2_train"))
        page.set("LoRA2Train", steps=3)
        page.run()
        page.await_text("LoRA2Train", "step 3/3")

There are two renderers: "classic" draws nodes on a canvas and lays text over it, "vue" ("Nodes
2.0") builds them of HTML.

Nothing here sleeps: what a test wants to see is awaited, and what does not come within PATIENCE
fails the test by its name. A machine that is busy with other work makes it slower, not red.
"""

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from host.comfy_host import PACK, ROOT, ComfyHost
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Error,
    Locator,
    expect,
    sync_playwright,
)
from playwright.sync_api import Page as Tab
from playwright.sync_api import TimeoutError as NotInTime

PATIENCE = 180  # seconds, for what takes ten at most on an idle machine
expect.set_options(timeout=1000 * PATIENCE)
RENDERERS = ("classic", "vue")
TEMPLATES = ("lora2_train", "lora2_generate", "lora2_merge", "lora2_compress", "lora2_demo")
_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_SETTINGS = {  # of the page, so that nothing but the graph is on it
    "Comfy.TutorialCompleted": True,
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.RightSidePanel.IsOpen": False,
}
_ASIDE = (300, 90)  # of the page, where there is nothing but the canvas

# A node's rectangle on the screen.
_FRAME = """
node => {
  const built = document.querySelector(`[data-node-id="${node.id}"]`);
  if (built) return built.getBoundingClientRect();
  const { scale, offset } = app.canvas.ds;
  const canvas = app.canvas.canvas.getBoundingClientRect();
  const [x, y, width, height] = node.getBounding();
  const left = canvas.left + (x + offset[0]) * scale, top = canvas.top + (y + offset[1]) * scale;
  return { left, top, right: left + width * scale, bottom: top + height * scale };
}
"""

# The text that a user can read within a node's frame: lines that its scrolled or clipped
# surroundings cut off do not count, and neither does what lies outside the frame.
_TEXT_IN = """
type => {
  const frame = (FRAME)(app.graph._nodes.find(node => node.type === type));
  const within = (a, b) =>
    a.left > b.left - 2 && a.top > b.top - 2 && a.right < b.right + 2 && a.bottom < b.bottom + 2;
  const readable = text => {
    const range = document.createRange();
    range.selectNodeContents(text);
    const frames = [frame];
    for (let e = text.parentElement; e; e = e.parentElement) {
      const style = getComputedStyle(e);
      if (style.visibility === "hidden" || style.opacity === "0") return false;
      if (style.overflow !== "visible") frames.push(e.getBoundingClientRect());
    }
    const lines = [...range.getClientRects()];
    return lines.length > 0 && lines.every(line => frames.every(frame => within(line, frame)));
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const text = walker.currentNode;
    if (text.data.trim() && readable(text)) found.push(text.data.trim());
  }
  return found.join("\\n");
}
""".replace("FRAME", _FRAME)

_OVERLAPS = f"""
() => {{
  const nodes = app.graph._nodes, frames = nodes.map({_FRAME}), found = [];
  for (let i = 0; i < nodes.length; i++)
    for (let j = 0; j < i; j++) {{
      const a = frames[i], b = frames[j];
      if (a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom)
        found.push([nodes[j].title, nodes[i].title]);
    }}
  return found;
}}
"""

# Null while the view, a node or what lies in one moves, and for some frames more; then whether all
# nodes are in the window. A view that glides moves in every frame.
_STILL = f"""
() => {{
  const box = ({{ left, top, right, bottom }}) => [left, top, right, bottom];
  const nodes = app.graph._nodes.map({_FRAME}).map(box);
  const parts = document.querySelectorAll(
    "[data-node-id], .dom-widget, .lora2-viewer canvas, .lora2-live canvas");
  const inside = nodes.every(([left, top, right, bottom]) =>
    left > -2 && top > -2 && right < innerWidth + 2 && bottom < innerHeight + 2);
  const {{ scale, offset }} = app.canvas.ds;
  const seen = JSON.stringify(
    [scale, ...offset, nodes, [...parts].map(part => box(part.getBoundingClientRect()))]);
  const test = window.lora2Test;
  test.still = seen === test.seen ? test.still + 1 : 0;
  test.seen = seen;
  return test.still < 12 ? null : {{ inside }};
}}
"""

_LISTEN = """
() => {
  window.lora2Test = { ended: null, outputs: {}, seen: null, still: 0 };
  const end = ({ type, detail }) => { window.lora2Test.ended ??= { type, detail }; };
  for (const type of ["execution_success", "execution_error", "execution_interrupted"])
    app.api.addEventListener(type, end);
  app.api.addEventListener("executed", ({ detail }) => {
    window.lora2Test.outputs[detail.node] = detail.output;
  });
}
"""

_SHOWN_TROUBLE = """
[...document.querySelectorAll("[role=dialog], .p-toast-message-error, .p-toast-message-warn")]
  .filter(element => element.checkVisibility()).map(element => element.innerText)
"""

# An empty graph in the only workflow that is open.
_EMPTY = """
async () => {
  const { toast, setting, command, workflow } = app.extensionManager;
  toast.removeAll();
  await setting.set("Comfy.RightSidePanel.IsOpen", false);
  await command.execute("Comfy.NewBlankWorkflow");
  for (const one of [...workflow.openWorkflows])
    if (one.path !== workflow.activeWorkflow.path) await workflow.closeWorkflow(one);
  document.activeElement?.blur();
}
"""

_IS_EMPTY = f"""
() => !app.graph._nodes.length && !({_SHOWN_TROUBLE}).length
  && app.extensionManager.workflow.openWorkflows.length === 1
  && !document.querySelector("[data-node-id], .lora2-viewer, .lora2-live")
"""

_IS_IDLE = """
async () => {
  const queue = await (await fetch("/queue")).json();
  return !queue.queue_running.length && !queue.queue_pending.length;
}
"""


def chromium() -> str | None:
    """The browser's path, or None if there is none."""
    return next(filter(None, map(shutil.which, _CHROMIUM)), None)


def template(name: str) -> dict:
    return json.loads((ROOT / "workflows" / f"{name}.json").read_text("utf-8"))


class Page:
    """One tab with ComfyUI in it. Nodes are named by their type, widgets by their name."""

    tab: Tab

    def __init__(self, browser: Browser, host: ComfyHost, renderer: str, size: tuple[int, int]):
        self._browser, self.host, self.renderer, self._size = browser, host, renderer, size
        self._console: list[str] = []

    def _note(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._console.append(f"{message.text} ({message.location.get('url', '')})")

    # life

    def open(self) -> None:
        """A tab that knows nothing of one before it."""
        width, height = self._size
        self.tab = self._browser.new_page(viewport={"width": width, "height": height})
        self.tab.set_default_timeout(1000 * PATIENCE)
        self.tab.on("console", self._note)
        self.tab.on("pageerror", lambda error: self._console.append(f"{error}\n{error.stack}"))
        self.start()

    def close(self) -> None:
        self.tab.close()

    def start(self) -> None:
        """Opens the page in its tab, or reloads it, with its settings made.

        They lie on the server, as a user's do, where the other renderer's page makes its own.
        """
        vue = {"Comfy.VueNodes.Enabled": self.renderer == "vue"}
        self.host.post("/settings", _SETTINGS | vue)
        self.tab.goto(f"http://127.0.0.1:{self.host.port}")
        self.wait_for("a page that has started", "!!window.app?.extensionManager?.command")
        # the page ends its start with a graph of its own
        self.wait_for("the page's first graph", "app.canvas?.graph?._nodes.length > 0")
        self.wait_for("its workflow", "!!app.extensionManager.workflow.activeWorkflow")
        self.tab.evaluate(_LISTEN)

    def clean(self) -> None:
        """An empty graph, nothing that runs, and nothing open: whatever an earlier test left.

        A page that cannot be brought there is opened anew.
        """
        try:
            self._stop_runs()
            for _ in range(2):
                self.tab.keyboard.press("Escape")
            self.tab.mouse.move(*_ASIDE)
            self.tab.evaluate(_EMPTY)
            self.wait_for("an empty page", _IS_EMPTY, seconds=30)
        except (Error, AssertionError):
            self.reopen()
        self._console.clear()

    def reopen(self) -> None:
        """As it was when nothing had happened in it yet."""
        self.close()
        self.open()
        self._stop_runs()
        self.tab.evaluate(_EMPTY)
        self.wait_for("an empty page", _IS_EMPTY)
        self._console.clear()

    def _stop_runs(self) -> None:
        queue = self.host.get("/queue")
        if queue["queue_running"] or queue["queue_pending"]:
            self.host.post("/queue", {"clear": True})
            self.host.interrupt()
            self.wait_for("a server that does nothing", _IS_IDLE, every=0.2)

    # waiting

    def wait_for(
        self, what: str, predicate: str, arg=None, seconds: float = PATIENCE, every: float = 0
    ):
        """Waits until JavaScript finds something true, and returns it.

        every: seconds from one look to the next, 0 for every frame. Raises AssertionError, naming
        what did not come.
        """
        polling = 1000 * every if every else "raf"
        try:
            found = self.tab.wait_for_function(
                predicate, arg=arg, timeout=1000 * seconds, polling=polling
            )
        except NotInTime:
            trouble = f"; {said}" if (said := self.complaints()) else ""
            raise AssertionError(f"after {seconds} s there is not {what}{trouble}") from None
        return found.json_value()

    def await_text(self, node: str, text: str) -> None:
        """Waits until a user can read a text in a node."""
        try:
            self.wait_for(
                f"{text!r} in {node}",
                f"([type, text]) => ({_TEXT_IN})(type).includes(text)",
                [node, text],
                every=0.1,
            )
        except AssertionError as error:
            raise AssertionError(f"{error}; it says {self.text_in(node)!r}") from None

    def await_change(self, element: Locator, before: bytes) -> bytes:
        """Waits until an element looks otherwise than in a screenshot; returns the new one."""
        deadline = time.monotonic() + PATIENCE
        while (after := element.screenshot()) == before:
            assert time.monotonic() < deadline, f"{element} looks the same after {PATIENCE} s"
        return after

    def settle(self) -> bool:
        """Waits until nothing in the graph moves or grows; returns whether all of it is in view."""
        self.tab.evaluate("window.lora2Test.seen = null")
        return self.wait_for("a graph that stands still", _STILL)["inside"]

    # the graph

    def load(self, graph: dict) -> None:
        """Opens a workflow in the page's own format, and brings all of it into view."""
        self.tab.evaluate("graph => app.loadGraphData(graph, true, true)", graph)
        self.fit()

    def fit(self) -> None:
        """Brings all nodes into view; the view glides there, and nodes may grow meanwhile."""
        deadline = time.monotonic() + PATIENCE
        while True:
            self.tab.evaluate("app.extensionManager.command.execute('Comfy.Canvas.FitView')")
            if self.settle():
                return
            assert time.monotonic() < deadline, f"nodes are out of view after {PATIENCE} s"

    def approach(self, node: str) -> None:
        """As near to a node as one works at it: from far off, pages of 2026 leave widgets out."""
        self.tab.evaluate(
            """type => {
              app.canvas.ds.scale = 1;
              app.canvas.centerOnNode(app.graph._nodes.find(node => node.type === type));
              app.canvas.setDirty(true, true);
            }""",
            node,
        )
        self.settle()

    def add(self, node: str) -> None:
        """Adds a node to the graph."""
        self.tab.evaluate("type => { app.graph.add(LiteGraph.createNode(type)); }", node)

    def set(self, node: str, **widgets) -> None:
        """Sets widgets as a user's choice does; raises if a widget is missing."""
        self.tab.evaluate(
            """([type, values]) => {
              const node = app.graph._nodes.find(node => node.type === type);
              for (const [name, value] of Object.entries(values)) {
                const widget = node.widgets.find(widget => widget.name === name);
                widget.value = value;
                widget.callback?.(value);
              }
            }""",
            [node, widgets],
        )

    def select(self, node: str) -> None:
        self.tab.evaluate(
            """type => {
              app.canvas.deselectAll();
              app.canvas.selectNode(app.graph._nodes.find(node => node.type === type));
              app.canvas.setDirty(true, true);
            }""",
            node,
        )

    def refresh(self) -> None:
        """What the key R does: reads the lists of files again."""
        self.tab.evaluate("async () => { await app.refreshComboInNodes(); }")

    def text_in(self, node: str) -> str:
        """The text that a user can read in a node, apart from what a canvas draws."""
        return self.tab.evaluate(_TEXT_IN, node)

    def overlaps(self) -> list[list[str]]:
        """Titles of the nodes that lie on one another, in pairs."""
        return self.tab.evaluate(_OVERLAPS)

    def prompt(self) -> dict:
        """The graph as the page would send it to the server."""
        return self.tab.evaluate("async () => (await app.graphToPrompt()).output")

    def graph(self) -> dict:
        """The graph as the page would store it."""
        return self.tab.evaluate("JSON.parse(JSON.stringify(app.graph.serialize()))")

    def unknown_nodes(self) -> list[str]:
        return self.tab.evaluate(
            """app.graph._nodes.map(node => node.type)
              .filter(type => !(type in LiteGraph.registered_node_types))"""
        )

    def node_id(self, node: str) -> str:
        return self.tab.evaluate(
            "type => String(app.graph._nodes.find(node => node.type === type).id)", node
        )

    # runs

    def queue(self) -> None:
        """Queues the graph as the Run button does. Raises AssertionError if it is refused."""
        self.tab.evaluate("window.lora2Test.ended = null; window.lora2Test.outputs = {}")
        self.tab.evaluate("async () => { await app.queuePrompt(0); }")
        refused = self.tab.evaluate("app.lastNodeErrors")
        assert not refused, refused

    def finish(
        self, while_running: Callable[[], None] | None = None, seconds: float = 600
    ) -> dict[str, dict]:
        """Waits for the end of what was queued; returns node id -> what the node showed.

        Calls while_running about ten times a second. Raises AssertionError unless all went well.
        """
        deadline = time.monotonic() + seconds
        while (ended := self.tab.evaluate("window.lora2Test.ended")) is None:
            assert time.monotonic() < deadline, f"not done after {seconds} s; {self.complaints()}"
            if while_running:
                while_running()
            with contextlib.suppress(NotInTime):
                wait = 100 if while_running else 1000 * seconds
                self.tab.wait_for_function("window.lora2Test.ended", timeout=wait, polling=50)
        assert ended["type"] == "execution_success", ended
        return self.tab.evaluate("window.lora2Test.outputs")

    def run(
        self, while_running: Callable[[], None] | None = None, seconds: float = 600
    ) -> dict[str, dict]:
        """Queues the graph and waits for its end; as finish."""
        self.queue()
        return self.finish(while_running, seconds)

    # trouble

    def complaints(self) -> list[str]:
        """What troubles a user: dialogs, warning toasts, and console errors that name the pack.

        For help the page looks into a folder of the language first; that it is not there is fine.
        """
        shown = self.tab.evaluate(_SHOWN_TROUBLE)
        ours = [text for text in self._console if "lora2" in text.lower()]
        return shown + [text for text in ours if f"{PACK}/docs/" not in text]

    def screenshot(self, path: Path) -> None:
        self.tab.screenshot(path=path)


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def open_page(
    browser: Browser, host: ComfyHost, renderer: str, width: int = 2000, height: int = 1150
) -> Iterator[Page]:
    page = Page(browser, host, renderer, (width, height))
    try:
        page.open()
        yield page
    finally:
        page.close()
