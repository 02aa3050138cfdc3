"""Makes the pictures of the graphs: workflows/*.jpg beside the templates, and docs/train.jpg.

    python tests/web/make_pictures.py

Needs what the tests of this folder need. Run it again when a template or a node changes its looks.
"""

import io
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests"))

from host import checkpoints, graphs  # noqa: E402
from host.comfy_host import open_host  # noqa: E402
from web.page import Page, open_browser, open_page, template  # noqa: E402

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
    page.tab.wait_for_timeout(1500)
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


def main() -> None:
    with open_host() as host, open_browser() as browser:
        checkpoint = checkpoints.place(host, "small_koala")
        host.add_images(graphs.PHOTOGRAPHS, "my_subject", size=128)
        with open_page(browser, host, "classic", width=2300, height=1300) as page:
            page.load(template("lora2_train"))
            page.set("CheckpointLoaderSimple", ckpt_name=checkpoint)
            page.set("LoadImageDataSetFromFolder", folder="my_subject")
            page.set("LoRA2Train", preset="small", steps=60, training_dtype="fp32")
            page.run(timeout=600)
            # the totals stand at the end of the report
            page.tab.evaluate(
                "document.querySelectorAll('textarea').forEach(e => e.scrollTop = e.scrollHeight)"
            )
            write(picture_of_graph(page), ROOT / "docs" / "train.jpg", 1400, 200 * 1024)
            page.load(template("lora2_train"))
            page.set("LoadImageDataSetFromFolder", folder="my_subject")
            write(picture_of_graph(page), ROOT / "workflows" / "lora2_train.jpg", 800, 60 * 1024)
            page.load(template("lora2_generate"))
            page.refresh()
            page.set("LoRA2Load", lora_name="lora2/my_subject_00001.safetensors")
            write(picture_of_graph(page), ROOT / "workflows" / "lora2_generate.jpg", 800, 60 * 1024)


if __name__ == "__main__":
    main()
