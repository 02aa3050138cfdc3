// Whether the page is dark or light, from the colour of its menus.

export function theme() {
  const colour = getComputedStyle(document.body).getPropertyValue("--comfy-menu-bg").trim();
  const parts = /^#([\da-f]{2})([\da-f]{2})([\da-f]{2})/i.exec(colour);
  if (!parts) return "dark";
  const [red, green, blue] = parts.slice(1).map(part => parseInt(part, 16));
  return 0.3 * red + 0.59 * green + 0.11 * blue > 140 ? "light" : "dark";
}
