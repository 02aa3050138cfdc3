// Whether the page is dark or light, from the colour of its menus.

export function theme() {
  const colour = getComputedStyle(document.body).getPropertyValue("--comfy-menu-bg").trim();
  const parts = /^#([\da-f]{2})([\da-f]{2})([\da-f]{2})/i.exec(colour);
  if (!parts) return "dark";
  const [red, green, blue] = parts.slice(1).map(part => parseInt(part, 16));
  return 0.3 * red + 0.59 * green + 0.11 * blue > 140 ? "light" : "dark";
}

const callbacks = new Set();
let last = null;

/** Calls back when the user changes it, for as long as the node is in the graph. */
export function onTheme(node, callback) {
  callbacks.add(callback);
  const removed = node.onRemoved;
  node.onRemoved = function () {
    callbacks.delete(callback);
    removed?.apply(this, arguments);
  };
  if (last !== null) return;
  last = theme();
  const observer = new MutationObserver(() => {
    if (theme() === last) return;
    last = theme();
    callbacks.forEach(call => call());
  });
  for (const element of [document.documentElement, document.body]) {
    observer.observe(element, { attributes: true, attributeFilter: ["class", "style"] });
  }
}
