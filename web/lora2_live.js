// LoRA² Train: ranks, loss and size as they change, and a movie of them afterwards.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { createLive } from "./lora2_run.js";
import { onTheme, theme } from "./lora2_theme.js";

const HEIGHT = 380, WITH_PREVIEWS = 500;
const shown = new WeakMap(); // node → what it shows

function root() {
  return app.rootGraph ?? app.graph;
}

/** The node behind the server's id, which names the way through subgraphs: "12:3". */
function nodeOf(id) {
  let graph = root(), node = null;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(part);
    graph = node?.subgraph;
  }
  return node;
}

function pictureAt(run, step, picture) {
  return api.apiURL(`/lora2/preview?${new URLSearchParams({ run, step, picture })}`);
}

function attach(node) {
  const live = createLive(document, { theme, pictureAt });
  const least = () => (!live.started() ? 0 : live.pictured() ? WITH_PREVIEWS : HEIGHT);
  const widget = node.addDOMWidget("live", "lora2_live", live.element, {
    serialize: false, // not in what is sent
    getMinHeight: least,
    getMaxHeight: () => (live.started() ? undefined : 0),
    getValue: () => undefined,
    setValue: () => {},
  });
  widget.serialize = false; // nor in what is stored
  new ResizeObserver(live.resize).observe(live.element);
  onTheme(node, live.resize);
  let open = 0;
  const grow = () => {
    if (least() <= open) return;
    open = least();
    const [width, height] = node.computeSize();
    node.setSize([Math.max(width, node.size[0]), Math.max(height, node.size[1])]);
    node.setDirtyCanvas?.(true, true);
  };
  return {
    take(message) {
      live.take(message);
      grow();
    },
    restore(state) {
      live.restore(state);
      grow();
    },
  };
}

/** Fetches the runs of this workflow: after a reload, a reconnect, and at the end of a run. */
async function restore() {
  const asked = new URLSearchParams({ client: api.clientId ?? "", workflow: root()?.id ?? "" });
  let states;
  try {
    const answer = await api.fetchApi(`/lora2/live?${asked}`);
    if (!answer.ok) return;
    states = await answer.json();
  } catch {
    return; // without the server there is nothing to show either
  }
  if (asked.get("workflow") !== String(root()?.id ?? "")) return; // another graph has come meanwhile
  for (const [id, state] of Object.entries(states)) shown.get(nodeOf(id))?.restore(state);
}

// before the page is set up: it complains of messages that nobody listens to
api.addEventListener("lora2.live", ({ detail }) => {
  if (detail.workflow !== String(root()?.id ?? "")) return; // another tab's
  shown.get(nodeOf(detail.node))?.take(detail);
  if (detail.kind === "end") restore(); // with the frames that were too quick to be sent
});
api.addEventListener("reconnected", restore);

app.registerExtension({
  name: "lora2.live",
  nodeCreated(node) {
    if (node.comfyClass === "LoRA2Train") shown.set(node, attach(node));
  },
  afterConfigureGraph: restore,
});
