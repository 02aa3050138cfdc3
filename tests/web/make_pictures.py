"""Makes the pictures: workflows/*.jpg beside the templates, docs/train.jpg and docs/viewer.jpg.

    python tests/web/make_pictures.py [NAME …]

Needs what the tests of this folder need. Run it again when a template or a node changes its looks.
"""

import io
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "tests"), str(ROOT)]

from host import checkpoints, graphs  # noqa: E402
from host.comfy_host import open_host  # noqa: E402
from web.page import TEMPLATES, Page, open_browser, open_page, template  # noqa: E402

_MARGIN = 24  # pixels around the graph
_AROUND_GRAPH = """
margin => {
  const { scale, offset } = app.canvas.ds;
  const boxes = app.graph._nodes.map(node => node.getBounding());
  const left = Math.min(...boxes.map(box => box[0]));
  const top = Math.min(...boxes.map(box => box[1]));
  const right = Math.max(...boxes.map(box => box[0] + box[2]));
  const bottom = Math.max(...boxes.map(box => box[1] + box[3]));
  return {
    x: (left + offset[0]) * scale - margin,
    y: (top + offset[1]) * scale - margin,
    width: (right - left) * scale + 2 * margin,
    height: (bottom - top) * scale + 2 * margin,
  };
}
"""
# as elements, and as a canvas draws them
_PICTURES_ARE_THERE = """
() => [...document.images, ...app.graph._nodes.flatMap(node => node.imgs ?? [])]
  .every(image => image.complete)
"""


def picture_of_graph(page: Page, scale: float = 1.0) -> Image.Image:
    """The graph alone, at scale, without the page's bars."""
    page.tab.evaluate(
        """scale => {
          app.canvas.ds.scale = scale;
          app.canvas.ds.offset = [120 / scale, 130 / scale];
          app.canvas.deselectAll();
          app.canvas.setDirty(true, true);
        }""",
        scale,
    )
    page.settle()
    page.wait_for("all pictures", _PICTURES_ARE_THERE)
    data = page.tab.screenshot(clip=page.tab.evaluate(_AROUND_GRAPH, _MARGIN))
    with Image.open(io.BytesIO(data)) as picture:
        return picture.convert("RGB")


def write(picture: Image.Image, path: Path, width: int, limit: int) -> None:
    """A JPEG of that width, in the best quality that stays below limit bytes."""
    height = round(picture.height * width / picture.width)
    picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    path.parent.mkdir(exist_ok=True)
    for quality in range(92, 30, -4):
        data = io.BytesIO()
        picture.save(data, "JPEG", quality=quality, optimize=True, progressive=True)
        if data.tell() <= limit:
            break
    path.write_bytes(data.getvalue())
    print(f"{path.relative_to(ROOT)}: {width} × {height}, {data.tell() / 1024:.0f} KB")


def pictures_of_training(page: Page, checkpoint: str) -> None:
    """The training graph after a run, and its heatmap with one layer opened, for the README."""
    page.load(template("lora2_train"))
    page.set("CheckpointLoaderSimple", ckpt_name=checkpoint)
    page.set("LoadImageDataSetFromFolder", folder="my_subject")
    page.set("LoRA2Train", preset="small", steps=60, training_dtype="fp32", lambda_r=1e-6)
    page.run()
    write(picture_of_graph(page), ROOT / "docs" / "train.jpg", 1400, 200 * 1024)
    canvas = page.tab.locator(".lora2-viewer .pictures canvas")
    canvas.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "Enter"):
        page.tab.keyboard.press(key)
    page.tab.locator(".lora2-viewer .spectrum").wait_for(state="visible")
    page.tab.evaluate(
        """() => {
          const [x, y] = app.graph._nodes.find(node => node.type === "LoRA2RankHeatmap").pos;
          app.canvas.ds.scale = 1.5;
          app.canvas.ds.offset = [120 - x, 80 - y];
          app.canvas.setDirty(true, true);
        }"""
    )
    page.settle()
    data = page.tab.locator(".lora2-viewer").screenshot()
    with Image.open(io.BytesIO(data)) as picture:
        write(picture.convert("RGB"), ROOT / "docs" / "viewer.jpg", 900, 120 * 1024)


CHOICES = {  # what a user would have chosen in a template
    "lora2_train": ("LoadImageDataSetFromFolder", {"folder": "my_subject"}),
    "lora2_generate": ("LoRA2Load", {"lora_name": "my_subject.safetensors"}),
    "lora2_merge": ("LoRA2Pick", {"lora_name": "my_subject.safetensors"}),
    "lora2_compress": ("LoRA2Compress", {"lora_name": "my_subject.safetensors"}),
}


def main() -> None:
    wanted = sys.argv[1:] or ["train", *TEMPLATES]
    with open_host() as host, open_browser() as browser:
        checkpoint = checkpoints.place(host, "small_koala")
        host.add_images(graphs.PHOTOGRAPHS, "my_subject", size=128)
        (host.base / "models" / "loras" / "my_subject.safetensors").touch()
        with open_page(browser, host, "classic", width=2300, height=2500) as page:
            if "train" in wanted:
                pictures_of_training(page, checkpoint)
            for name in TEMPLATES:
                if name in wanted:
                    page.load(template(name))
                    page.refresh()
                    if name in CHOICES:
                        node, chosen = CHOICES[name]
                        page.set(node, **chosen)
                    else:  # nothing to choose: its pictures are what is worth seeing
                        page.run()
                    picture = picture_of_graph(page)
                    write(picture, ROOT / "workflows" / f"{name}.jpg", 800, 60 * 1024)


if __name__ == "__main__":
    main()
