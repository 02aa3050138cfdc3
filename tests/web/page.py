"""ComfyUI's page in a real Chromium, as a user has it before them.

    with open_browser() as browser, open_page(browser, host, "vue") as page:
        page.load(template("lora2_train"))
        page.set("LoRA2Train", steps=3)
        page.run()
        assert "step 3/3" in page.text_in("LoRA2Train")

There are two renderers: "classic" draws nodes on a canvas and lays text over it, "vue" ("Nodes
2.0") builds them of HTML.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from host.comfy_host import PACK, ROOT, ComfyHost
from playwright.sync_api import Browser, ConsoleMessage, sync_playwright
from playwright.sync_api import Page as Tab

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
}

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

_LISTEN = """
() => {
  window.lora2Test = { ended: null, outputs: {} };
  const end = ({ type, detail }) => { window.lora2Test.ended ??= { type, detail }; };
  for (const type of ["execution_success", "execution_error", "execution_interrupted"])
    app.api.addEventListener(type, end);
  app.api.addEventListener("executed", ({ detail }) => {
    window.lora2Test.outputs[detail.node] = detail.output;
  });
}
"""


def chromium() -> str | None:
    """The browser's path, or None if there is none."""
    return next(filter(None, map(shutil.which, _CHROMIUM)), None)


def template(name: str) -> dict:
    return json.loads((ROOT / "workflows" / f"{name}.json").read_text("utf-8"))


class Page:
    """One tab with ComfyUI in it. Nodes are named by their type, widgets by their name."""

    def __init__(self, tab: Tab, host: ComfyHost, renderer: str):
        self.tab, self.host, self.renderer = tab, host, renderer
        self._console: list[str] = []
        tab.on("console", self._note)
        tab.on("pageerror", lambda error: self._console.append(f"{error}\n{error.stack}"))

    def _note(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._console.append(f"{message.text} ({message.location.get('url', '')})")

    def start(self) -> None:
        self.tab.goto(f"http://127.0.0.1:{self.host.port}")
        self.tab.wait_for_function("window.app?.extensionManager?.command", timeout=60_000)
        # the page ends its start with a graph of its own
        self.tab.wait_for_function("app.canvas?.graph?._nodes.length > 0", timeout=60_000)
        self.tab.evaluate(_LISTEN)

    def load(self, graph: dict) -> None:
        """Opens a workflow in the page's own format, and brings all of it into view."""
        self.tab.evaluate("graph => app.loadGraphData(graph, true, true)", graph)
        self.fit()

    def fit(self) -> None:
        self.tab.evaluate("app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        self.tab.wait_for_timeout(700)  # the view glides there

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
        self.tab.wait_for_timeout(300)

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
        self.tab.evaluate("app.refreshComboInNodes()")

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

    def run(
        self, while_running: Callable[[], None] = lambda: None, timeout: float = 120
    ) -> dict[str, dict]:
        """Queues the graph as the Run button does; returns node id -> what the node showed.

        Calls while_running about ten times a second. Raises AssertionError unless all went well.
        """
        self.tab.evaluate("window.lora2Test.ended = null; window.lora2Test.outputs = {}")
        self.tab.evaluate("async () => { await app.queuePrompt(0); }")
        refused = self.tab.evaluate("app.lastNodeErrors")
        assert not refused, refused
        deadline = time.monotonic() + timeout
        while (ended := self.tab.evaluate("window.lora2Test.ended")) is None:
            assert time.monotonic() < deadline, f"not done after {timeout} s; {self.complaints()}"
            while_running()
            self.tab.wait_for_timeout(100)
        assert ended["type"] == "execution_success", ended
        return self.tab.evaluate("window.lora2Test.outputs")

    def complaints(self) -> list[str]:
        """What troubles a user: dialogs, warning toasts, and console errors that name the pack.

        For help the page looks into a folder of the language first; that it is not there is fine.
        """
        shown = self.tab.evaluate(
            """[...document.querySelectorAll(
                "[role=dialog], .p-toast-message-error, .p-toast-message-warn")]
              .filter(element => element.checkVisibility()).map(element => element.innerText)"""
        )
        ours = [text for text in self._console if "lora2" in text.lower()]
        return shown + [text for text in ours if f"{PACK}/docs/" not in text]

    def clean(self) -> None:
        """Closes what an earlier test left open, and forgets what went wrong in it."""
        for _ in range(2):
            self.tab.keyboard.press("Escape")
        self._console.clear()

    def screenshot(self, path: Path) -> None:
        self.tab.screenshot(path=path)


@contextmanager
def open_browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(
    browser: Browser, host: ComfyHost, renderer: str, width: int = 2000, height: int = 1150
) -> Iterator[Page]:
    """The page with its settings made; they lie on the server, as a user's do."""
    host.post("/settings", _SETTINGS | {"Comfy.VueNodes.Enabled": renderer == "vue"})
    tab = browser.new_page(viewport={"width": width, "height": height})
    try:
        page = Page(tab, host, renderer)
        page.start()
        yield page
    finally:
        tab.close()
