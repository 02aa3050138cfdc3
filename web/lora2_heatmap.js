// LoRA² Rank Heatmap: the viewer in its node.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { onTheme, theme } from "./lora2_theme.js";
import { createViewer } from "./lora2_viewer.js";

const WIDTH = 540, HEIGHT = 440;
const WIRE = "(connected lora)";
const SOCKET = /^(lora$|more)/;

async function ask(path) {
  try {
    const answer = await api.fetchApi(path);
    return await answer.json();
  } catch (error) {
    return { error: `the server gives no answer (${error.message}); is it running?` };
  }
}

function save(name, blob) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/** Shows a chosen file at once, without a run. */
function follow(node, viewer) {
  let asked = "";
  const open = async () => {
    const choice = node.widgets?.find(widget => widget.name === "lora_name")?.value;
    const connected = node.inputs?.some(input => SOCKET.test(input.name) && input.link != null);
    if (connected || !choice || choice === WIRE) {
      asked = "";
      viewer.say("Run the graph to see the ranks of what is connected, or choose a file.");
      return;
    }
    asked = choice;
    const found = await ask(`/lora2/ranks?lora_name=${encodeURIComponent(choice)}`);
    if (asked !== choice) return;
    asked = "";
    if (found.error) viewer.say(found.error);
    else viewer.show([found]);
  };
  const widget = node.widgets?.find(one => one.name === "lora_name");
  const changed = widget?.callback;
  if (widget) {
    widget.callback = function () {
      changed?.apply(this, arguments);
      open();
    };
  }
  const configured = node.onConfigure;
  node.onConfigure = function () {
    configured?.apply(this, arguments);
    open();
  };
  open();
  return () => (asked = ""); // what a run shows is newer
}

app.registerExtension({
  name: "lora2.heatmap",
  nodeCreated(node) {
    if (node.comfyClass !== "LoRA2RankHeatmap") return;
    const viewer = createViewer(document, { ask, theme, save });
    const widget = node.addDOMWidget("ranks", "lora2_ranks", viewer.element, {
      serialize: false, // not in what is sent
      getMinHeight: () => HEIGHT,
      getValue: () => undefined,
      setValue: () => {},
    });
    widget.serialize = false; // nor in what is stored
    new ResizeObserver(viewer.resize).observe(viewer.element);
    onTheme(node, viewer.resize);
    const forget = follow(node, viewer);
    const executed = node.onExecuted;
    node.onExecuted = function (output) {
      executed?.apply(this, arguments);
      if (!output?.lora2_ranks?.length) return;
      forget();
      viewer.show(output.lora2_ranks);
    };
    node.setSize([Math.max(node.size[0], WIDTH), Math.max(node.size[1], HEIGHT + 90)]);
  },
});
