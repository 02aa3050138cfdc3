// Preview pictures of a run in a row, by their steps. It knows nothing of the host.

const MOST = 120; // steps; of more, every other one goes
const HEIGHT = 96; // pixels of a picture
const MARKED = "rgb(222, 138, 66)";

/** The one whose step is nearest; of two the earlier. previews: [{ step }], not empty. */
export function nearest(previews, step) {
  return previews.reduce((best, one) =>
    (Math.abs(one.step - step) < Math.abs(best.step - step) ? one : best));
}

/** So many that they can be shown: evenly over the run, with the last. */
export function thinned(previews, most = MOST) {
  const every = Math.ceil(previews.length / most);
  return previews.filter((_, i) => (previews.length - 1 - i) % every === 0);
}

/**
 * { element, set(previews), mark(step) }; the element is not displayed while there are none.
 * previews: [{ step, pictures }], the first step first. pictureAt(step, index): where one is.
 * onChoice(step): one was clicked.
 */
export function createStrip(document, { pictureAt, onChoice }) {
  const made = (tag, properties = {}) => Object.assign(document.createElement(tag), properties);
  const element = made("div", { role: "group", ariaLabel: "Previews" });
  element.style.cssText = "display: none; flex: none; gap: 6px; overflow-x: auto; " +
    "overflow-y: hidden; scrollbar-width: thin; padding-bottom: 2px;";
  let shown = [], marked = null;
  const buttons = new Map(); // step → its button, which stays: pictures are not fetched again

  function button({ step, pictures }) {
    const found = made("button", { type: "button", title: `Go to step ${step}` });
    found.style.cssText = "all: unset; flex: none; cursor: pointer; display: flex; " +
      "flex-direction: column; align-items: center; gap: 2px; border-radius: 3px; padding: 2px; " +
      "outline-offset: -2px;";
    const row = made("span");
    row.style.cssText = "display: flex; gap: 2px;";
    for (let i = 0; i < pictures; i++) {
      const picture = made("img", {
        alt: pictures > 1 ? `preview ${i + 1} of step ${step}` : `preview of step ${step}`,
        loading: "lazy", decoding: "async", draggable: false, src: pictureAt(step, i),
      });
      picture.addEventListener("load", reveal); // only now it is as wide as it is
      picture.style.cssText = `height: ${HEIGHT}px; min-width: 24px; border-radius: 2px;`;
      row.append(picture);
    }
    found.append(row, made("span", { textContent: `step ${step}` }));
    found.addEventListener("click", () => onChoice(step));
    return found;
  }

  function reveal() {
    const target = buttons.get(marked);
    if (!target) return;
    element.scrollLeft = target.offsetLeft - element.offsetLeft - (element.clientWidth - target.offsetWidth) / 2;
  }

  function outline(step, on) {
    const found = buttons.get(step);
    if (!found) return;
    found.style.outline = on ? `2px solid ${MARKED}` : "none";
    found.ariaPressed = String(on);
  }

  return {
    element,
    set(previews) {
      shown = thinned(previews);
      const steps = new Set(shown.map(one => one.step));
      for (const step of buttons.keys()) if (!steps.has(step)) buttons.delete(step);
      for (const one of shown) if (!buttons.has(one.step)) buttons.set(one.step, button(one));
      element.replaceChildren(...shown.map(one => buttons.get(one.step)));
      element.style.display = shown.length ? "flex" : "none";
      marked = null;
    },
    /** Marks the preview nearest to a step, and brings it into view. */
    mark(step) {
      if (!shown.length) return;
      const found = nearest(shown, step).step;
      if (found === marked) return;
      buttons.forEach((_, one) => outline(one, one === found));
      marked = found;
      reveal();
    },
    /** Forgets all pictures: another run has begun. */
    clear() {
      buttons.clear();
      this.set([]);
    },
  };
}
