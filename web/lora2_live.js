// LoRA² Train: ranks, loss and size as they change, and a movie of them afterwards.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { createLive } from "./lora2_run.js";
import { theme } from "./lora2_theme.js";

const HEIGHT = 360;
const shown = new Map(); // node id → what its node shows

function attach(node) {
  const live = createLive(document, { theme });
  const widget = node.addDOMWidget("live", "lora2_live", live.element, {
    serialize: false,
    getMinHeight: () => (live.started() ? HEIGHT : 0),
    getMaxHeight: () => (live.started() ? undefined : 0),
    getValue: () => undefined,
    setValue: () => {},
  });
  live.element.hidden = true;
  return {
    take(message) {
      const first = !live.started();
      live.take(message);
      if (first && live.started()) {
        live.element.hidden = false;
        node.setSize([node.size[0], node.computeSize()[1]]);
        node.setDirtyCanvas?.(true, true);
      }
    },
    restore: state => {
      if (!state?.begin) return;
      [state.begin, ...state.frames].forEach(message => live.take(message));
      live.element.hidden = false;
    },
    resize: live.resize,
    widget,
  };
}

app.registerExtension({
  name: "lora2.live",
  setup() {
    api.addEventListener("lora2.live", ({ detail }) => {
      const node = app.graph?._nodes.find(one => String(one.id) === String(detail.node));
      if (node?.comfyClass === "LoRA2Train") shown.get(node)?.take(detail);
    });
  },
  nodeCreated(node) {
    if (node.comfyClass !== "LoRA2Train") return;
    const live = attach(node);
    shown.set(node, live);
    new ResizeObserver(() => live.resize()).observe(live.widget.element);
  },
  async loadedGraphNode(node) {
    if (node.comfyClass !== "LoRA2Train") return;
    const client = encodeURIComponent(api.clientId ?? "");
    const answer = await api.fetchApi(`/lora2/live/${node.id}?client=${client}`);
    if (answer.ok) shown.get(node)?.restore(await answer.json());
  },
});
