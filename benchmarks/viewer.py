"""The rank viewer: opening files of several sizes, drawing in the real page, following a run.

python benchmarks/viewer.py [--rounds 5] [--out FILE.json]

The files are fp32 LoRAs of all of SDXL's attention (560 components) without data on the disk:
opening reads their headers alone, which is what is measured, over HTTP in the real host. Drawing is
timed in Chromium, in the page, with the same adapter and with one of 5,000 components. Following a
run is timed by step of a training on 560 components, with four messages to the page a second, and
with one a step.
"""

import argparse
import importlib
import json
import os
import platform
import statistics
import sys
import time
import types
import urllib.parse
from math import prod
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "tests"), str(ROOT)]

from host.comfy_host import PACK, open_host
from report import put
from unet_shapes import SDXL, unet_shapes
from web.page import open_browser, open_page

from lora2_core.files.module_names import kohya_name
from lora2_core.training.result import StepInfo

ATTENTION = {
    key.removesuffix(".weight"): shape
    for key, shape in unet_shapes(SDXL).items()
    if ".attn" in key and ".to_" in key and key.endswith("weight")
}
RANKS = (8, 64, 512)
_DRAWING = """
async ([base, report, rounds]) => {
  const { createViewer } = await import(`${base}/lora2_viewer.js`);
  const box = document.createElement("div");
  box.style.cssText = "position: fixed; inset: 0 auto auto 0; width: 560px; height: 900px;";
  document.body.append(box);
  const timed = action => {
    const start = performance.now();
    action();
    return performance.now() - start;
  };
  const first = [], hover = [];
  for (let i = 0; i < rounds; i++) {
    const ask = async () => ({}), theme = () => "dark";
    const viewer = createViewer(document, { ask, theme, save() {} });
    box.replaceChildren(viewer.element);
    const view = { title: "x", report: structuredClone(report), token: null };
    first.push(timed(() => viewer.show([view])));
    const canvas = box.querySelector("canvas"), area = canvas.getBoundingClientRect();
    for (let j = 0; j < 40; j++) {
      const at = { clientX: area.x + 110 + 10 * j, clientY: area.y + 60 + 9 * j };
      hover.push(timed(() => {
        canvas.dispatchEvent(new PointerEvent("pointermove", at));
        box.getBoundingClientRect(); // what a frame would lay out
      }));
    }
  }
  box.remove();
  return { first, hover };
}
"""


def empty_lora(path: Path, components: dict[str, tuple[int, int]], rank: int) -> int:
    """A file with a true header and nothing after it; returns its size in bytes."""
    header, at = {}, 0
    for name, (out, into) in components.items():
        for role, shape in (("down", (rank, into)), ("up", (out, rank))):
            end = at + 4 * prod(shape)
            entry = {"dtype": "F32", "shape": shape, "data_offsets": [at, end]}
            header[f"{name}.lora_{role}.weight"], at = entry, end
    data = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(data).to_bytes(8, "little") + data)
        file.truncate(8 + len(data) + at)
    return path.stat().st_size


def opening(host, rounds: int) -> list[dict]:
    folder = host.base / "models" / "loras"
    components = {kohya_name(name): shape for name, shape in ATTENTION.items()}
    found = []
    for rank in RANKS:
        name = f"rank{rank}.safetensors"
        size = empty_lora(folder / name, components, rank)
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            host.get(f"/lora2/ranks?{urllib.parse.urlencode({'lora_name': name})}")
            times.append(time.perf_counter() - start)
        found.append({
            "rank": rank, "megabytes": round(size / 1e6), "seconds": round(min(times), 4),
            "slowest": round(max(times), 4),
        })  # fmt: skip
    return found


def drawing(host, rounds: int) -> list[dict]:
    folder = host.base / "models" / "loras"
    many = {f"block_{i}_x": (64, 64) for i in range(5000)}
    empty_lora(folder / "many.safetensors", many, 4)
    found = []
    with open_browser() as browser, open_page(browser, host, "classic") as page:
        for name in (f"rank{RANKS[-1]}.safetensors", "many.safetensors"):
            report = host.get(f"/lora2/ranks?lora_name={name}")["report"]
            base = f"/extensions/{PACK}"
            times = page.tab.evaluate(_DRAWING, [base, report, rounds])
            found.append({
                "components": report["totals"]["components"],
                "first draw, ms": round(statistics.median(times["first"]), 1),
                "hover, ms": round(statistics.median(times["hover"]), 2),
                "slowest hover, ms": round(max(times["hover"]), 2),
            })  # fmt: skip
    return found


def following(steps: int = 1000) -> dict:
    live = _live()
    components = tuple(ATTENTION.items())
    shares = [1 / len(components)] * len(components)
    infos = [
        StepInfo(i, steps, 0.1, None, tuple((i + j) % 500 + 1 for j in range(len(components))),
                 10**7, 1.0 * i, components, effects=lambda: shares)
        for i in range(1, steps + 1)
    ]  # fmt: skip
    found = {}
    for label, interval in (("four messages a second, ms", 0.25), ("one a step, ms", 0.0)):
        live._INTERVAL = interval
        run, times = live.LiveRun(), []
        for info in infos:
            start = time.perf_counter()
            for message in run.step(info):
                json.dumps(message)  # as the host does before it sends
            times.append(1000 * (time.perf_counter() - start))
        found[label] = {"mean": round(statistics.mean(times), 4), "most": round(max(times), 2)}
    found["movie of 1000 steps, kilobytes"] = round(len(json.dumps(run.state())) / 1e3)
    found["a message, bytes"] = len(json.dumps(message))
    return found


def _live():
    """nodes/host/live.py without the nodes, which need the host."""
    for name, path in (("pack", ROOT), ("pack.nodes", ROOT / "nodes")):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(path)]
    return importlib.import_module("pack.nodes.host.live")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with open_host() as host:
        result = {
            "opening": opening(host, options.rounds),
            "drawing": drawing(host, options.rounds),
            "following a run": following(),
            "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
            "comfyui": host.version,
        }
    put(result, options.out)


if __name__ == "__main__":
    main()
