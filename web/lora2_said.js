// What a node has to say of its last run, as text in the node.

import { app } from "../../scripts/app.js";

const NODES = new Set([
  "LoRA2Save", "LoRA2Load", "LoRA2Merge", "LoRA2Compress", "LoRA2ExpandRanks", "LoRA2RankMap",
]);
const LINE = 16, MARGIN = 10; // pixels; the classic canvas keeps the margin free
const LETTERS = 44; // in a line of a node

function heightOf(text) {
  if (!text) return 0;
  const lines = text.split("\n").reduce((sum, line) => sum + Math.max(1, Math.ceil(line.length / LETTERS)), 0);
  return LINE * Math.min(lines, 8) + 2 * MARGIN;
}

app.registerExtension({
  name: "lora2.said",
  nodeCreated(node) {
    if (!NODES.has(node.comfyClass)) return;
    const element = Object.assign(document.createElement("div"), { hidden: true, role: "status" });
    element.style.cssText = `font: 12px/${LINE}px sans-serif; color: var(--input-text, #ddd); ` +
      "white-space: pre-line; overflow: auto; overflow-wrap: anywhere; user-select: text;";
    const height = () => heightOf(element.textContent);
    const widget = node.addDOMWidget("said", "lora2_said", element, {
      serialize: false, // not in what is sent
      getMinHeight: height,
      getMaxHeight: height,
      getValue: () => undefined,
      setValue: () => {},
    });
    widget.serialize = false; // nor in what is stored
    const executed = node.onExecuted;
    node.onExecuted = function (output) {
      executed?.apply(this, arguments);
      if (!output?.text?.length) return;
      element.textContent = output.text.join("\n");
      element.hidden = false;
      const [width, least] = node.computeSize();
      node.setSize([Math.max(width, node.size[0]), Math.max(least, node.size[1])]);
      node.setDirtyCanvas?.(true, true);
    };
  },
});
