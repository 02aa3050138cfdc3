// LoRA² Rank Heatmap: the viewer in its node.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { theme } from "./lora2_theme.js";
import { createViewer } from "./lora2_viewer.js";

const HEIGHT = 420;

async function ask(path) {
  const answer = await api.fetchApi(path);
  try {
    return await answer.json();
  } catch {
    return { error: `the server answered ${answer.status}` };
  }
}

function save(name, blob) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

app.registerExtension({
  name: "lora2.heatmap",
  nodeCreated(node) {
    if (node.comfyClass !== "LoRA2RankHeatmap") return;
    const viewer = createViewer(document, { ask, theme, save });
    node.addDOMWidget("ranks", "lora2_ranks", viewer.element, {
      serialize: false,
      getMinHeight: () => HEIGHT,
      getValue: () => undefined,
      setValue: () => {},
    });
    new ResizeObserver(() => viewer.resize()).observe(viewer.element);
    const executed = node.onExecuted;
    node.onExecuted = function (output) {
      executed?.apply(this, arguments);
      if (output?.lora2_ranks?.length) viewer.show(output.lora2_ranks);
    };
    node.setSize([Math.max(node.size[0], 520), Math.max(node.size[1], HEIGHT + 90)]);
  },
});
