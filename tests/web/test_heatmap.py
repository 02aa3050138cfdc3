"""The rank viewer in the page: what it shows is what the file holds, by pointer and by keys."""

import csv
import io
import re

import pytest
import torch
from host import graphs
from made_effects import with_effects
from PIL import Image
from playwright.sync_api import expect

from lora2_core.files.adapter_file import LoraState, components, read
from lora2_core.files.header import read_header
from lora2_core.files.writing import write
from lora2_core.rank_tools import Cut, compress, open_adapter
from lora2_core.ranks import rank_report

TYPE = "LoRA2RankHeatmap"
WIRE = "(connected lora)"
RANKS = (1, 4, 9, 32, 2, 17)
HOSTILE = {
    '<img src=x onerror="window.pwned=1">': 2,
    "<script>window.pwned=1</script>": 3,
    "a\nb\u202ec\u0000\u2028d": 1,
    "x" * 5000: 4,
    "constructor": 1,
    "__proto__": 1,
    "lora_unet_double_blocks_1_<b>bold</b>": 5,
}


def path_of(host, name):
    return host.base / "models" / "loras" / name


@pytest.fixture(scope="module")
def content(web_host):
    return graphs.random_lora(web_host, "page_content", 1, RANKS)


@pytest.fixture(scope="module")
def style(web_host):
    return graphs.random_lora(web_host, "page_style", 2, (6, 3))


@pytest.fixture(scope="module")
def by_effect(web_host, content):
    """A LoRA that was cut by effect: some of its components are of rank 0."""
    adapter = open_adapter(path_of(web_host, content))
    outcome = compress(with_effects(adapter), Cut(effect=0.999))
    path = path_of(web_host, "page_effect.safetensors")
    return write(outcome.state, path, precision="fp32", overwrite=True).name


def add(page, *names):
    """One heatmap in an empty graph, a Pick for every name but the first; awaits what it shows."""
    page.tab.evaluate(
        """count => {
          const heat = LiteGraph.createNode("LoRA2RankHeatmap");
          heat.pos = [400, 100];
          app.graph.add(heat);
          for (let i = 0; i < count; i++) {
            const pick = LiteGraph.createNode("LoRA2Pick");
            pick.pos = [40, 100 + 240 * i];
            app.graph.add(pick);
            const socket = i ? `more.more_${i - 1}` : "lora";
            pick.connect(0, heat, heat.inputs.findIndex(one => one.name === socket));
          }
        }""",
        len(names) - 1,
    )
    page.refresh()
    page.tab.evaluate(
        """names => app.graph._nodes.filter(node => node.type === "LoRA2Pick").forEach(
          (node, i) => node.widgets.find(w => w.name === "lora_name").value = names[i])""",
        list(names[1:]),
    )
    page.set(TYPE, lora_name=names[0])
    if len(names) > 1 or names[0] == WIRE:
        expect(viewer(page)).to_contain_text("Run the graph")
    else:
        await_totals(page, names[0])
    page.fit()


def viewer(page):
    return page.tab.locator(".lora2-viewer")


def details(page):
    return viewer(page).locator(".details .text").inner_text()


def await_totals(page, name):
    """Waits until the details speak of a whole file."""
    expect(viewer(page).locator(".details .text")).to_have_text(
        re.compile(rf"^{re.escape(name)}: \d+ layers · ")
    )


def canvas(page, index=0):
    return viewer(page).locator(".pictures canvas").nth(index)


def enter(page):
    """The first cell by the keyboard."""
    canvas(page).focus()
    page.tab.keyboard.press("ArrowUp")


def downloaded(page, button):
    with page.tab.expect_download() as waiting:
        viewer(page).get_by_role("button", name=button, exact=True).click()
    return waiting.value.suggested_filename, waiting.value.path().read_bytes()


def parts_of(host, name):
    return rank_report.report(read(path_of(host, name)))["components"]


def test_choosing_a_file_shows_it_without_a_run(page, web_host, content):
    add(page, content)
    totals = rank_report.report_from_header(read_header(path_of(web_host, content)))["totals"]
    said = details(page)
    assert said.startswith(f"{content}: {totals['components']} layers · ")
    assert f"mean rank {totals['mean_rank']:.1f} " in said
    assert said.endswith("17 % at rank 1 · 17 % at the highest, 32")
    assert page.complaints() == []


# All that the details say from now on, by its lines: one text a key.
NOTE_DETAILS = """
() => {
  const text = document.querySelector(".lora2-viewer .details .text");
  const said = window.lora2Test.said = [];
  new MutationObserver(() => said.push(text.textContent.split("\\n")))
    .observe(text, { childList: true, characterData: true, subtree: true });
}
"""


def test_every_number_by_the_arrow_keys(page, web_host, content):
    add(page, content)
    parts = {part["name"]: part for part in parts_of(web_host, content)}
    page.tab.evaluate(NOTE_DETAILS)
    enter(page)
    for direction in ("ArrowRight", "ArrowLeft") * 12:
        for _ in range(7):
            page.tab.keyboard.press(direction)
        page.tab.keyboard.press("ArrowDown")
    seen = dict(lines[:2] for lines in page.tab.evaluate("window.lora2Test.said") if lines[1:])
    wanted = {
        name: f"rank {part['rank']}, layer {' × '.join(map(str, part['shape']))}"
        for name, part in parts.items()
    }
    assert seen == wanted
    assert page.complaints() == []


def test_the_table_is_the_file(page, web_host, content):
    add(page, content)
    name, data = downloaded(page, "CSV")
    assert name == "page_content_ranks.csv"
    rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"))))
    expected = parts_of(web_host, content)
    assert [row["name"] for row in rows] == [part["name"] for part in expected]
    for row, part in zip(rows, expected, strict=True):
        assert int(row["rank"]) == part["rank"] and int(row["bytes"]) == part["bytes"]
        assert row["shape"] == "×".join(map(str, part["shape"]))
        assert (row["row"], row["column"]) == (part["row"], part["column"])


def test_a_click_shows_the_singular_values_and_the_keys_cut_them(page, web_host, content):
    add(page, content)
    enter(page)
    page.tab.keyboard.press("ArrowRight")
    page.tab.keyboard.press("ArrowRight")
    page.tab.keyboard.press("ArrowRight")
    page.tab.keyboard.press("Enter")
    spectrum = viewer(page).locator(".spectrum")
    expect(spectrum).to_be_visible()
    name = details(page).splitlines()[0]
    factors = components(read(path_of(web_host, content)))[name]
    energy = torch.linalg.svdvals(factors.delta()).square()
    share = (energy.cumsum(0) / energy.sum()).tolist()
    rank90 = 1 + next(i for i, value in enumerate(share) if value >= 0.9)
    assert factors.down.shape[0] == 32
    rank99 = 1 + next(i for i, value in enumerate(share) if value >= 0.99)
    assert f"90 % of the energy in {rank90}, 99 % in {rank99}" in details(page)
    assert f"‖ΔW‖ {float(factors.delta().norm()):.1f}" in details(page)
    spectrum.locator("canvas").focus()
    for step in range(3):
        k = rank90 + step
        text = spectrum.inner_text()
        assert f"rank {k} of 32 keeps {100 * share[k - 1]:.1f} %" in text
        page.tab.keyboard.press("ArrowRight")
    assert page.complaints() == []


def test_a_node_that_changes_its_size_keeps_the_cell_under_the_keys(page, web_host, content):
    add(page, content)
    enter(page)
    page.tab.keyboard.press("ArrowDown")
    name, before = details(page).splitlines()[0], canvas(page).bounding_box()["width"]
    page.tab.evaluate(
        """type => {
          const node = app.graph._nodes.find(node => node.type === type);
          node.setSize([node.size[0] + 120, node.size[1] + 40]);
          app.canvas.setDirty(true, true);
        }""",
        TYPE,
    )
    page.wait_for(
        "a wider picture",
        "([canvas, least]) => canvas.getBoundingClientRect().width > least",
        [canvas(page).element_handle(), before + 20],
    )
    page.settle()
    assert details(page).splitlines()[0] == name
    page.tab.keyboard.press("ArrowDown")
    said = details(page).splitlines()
    assert said[0] != name and said[1].startswith("rank ")
    assert page.complaints() == []


def middle_of(page, row, column):
    """Where a cell's middle is on the screen, from what the pure modules say of it."""
    return page.tab.evaluate(
        """async ([row, column]) => {
          const canvas = document.querySelector(".lora2-viewer .pictures canvas");
          const box = canvas.getBoundingClientRect();
          const url = performance.getEntriesByType("resource").map(entry => entry.name)
            .find(name => name.includes("lora2_draw.js"));
          const { layout } = await import(url);
          const { rows, columns } = window.lora2Grid;
          const width = canvas.style.width.replace("px", ""), zoom = box.width / width;
          const room = canvas.closest(".pictures").clientHeight - 20;
          const places = layout({ rows, columns }, Number(width), room);
          const { x, y, width: w, height: h } = places.box(row, column);
          return [box.x + (x + w / 2) * zoom, box.y + (y + h / 2) * zoom];
        }""",
        [row, column],
    )


def test_the_pointer_finds_its_cell_at_any_zoom(page, web_host, content):
    add(page, content)
    report = rank_report.report(read(path_of(web_host, content)))
    page.tab.evaluate("found => window.lora2Grid = found", report)
    by_place = {(p["row"], p["column"]): p for p in report["components"]}
    height = page.tab.viewport_size["height"]
    for zoom in (0.6, 1.0, 1.9):
        page.tab.evaluate(
            """zoom => {
              app.canvas.ds.scale = zoom;
              app.canvas.ds.offset = [-250 + 100 / zoom, 100 / zoom];
              app.canvas.setDirty(true, true);
            }""",
            zoom,
        )
        page.settle()
        tried = 0
        for i in range(0, len(report["rows"]), 5):
            for j in (0, 3, 7):
                x, y = middle_of(page, i, j)
                if not 80 < y < height - 80:  # outside the window, or under the page's bars
                    continue
                page.tab.mouse.move(x, y)
                part = by_place[report["rows"][i]["row"], report["columns"][j]]
                assert details(page).splitlines()[0] == part["name"], (zoom, i, j)
                tried += 1
        assert tried >= 6, zoom
        page.tab.mouse.move(300, 90)  # beside the node
        assert details(page).startswith(f"{content}: 168 layers"), zoom


def test_two_side_by_side_and_their_difference(page, web_host, content, style):
    add(page, content, style)
    page.run()
    titles = viewer(page).locator(".title")
    expect(titles).to_have_text([content, style])
    page.settle()
    first, second = (
        {(p["row"], p["column"]): p["rank"] for p in parts_of(web_host, name)}
        for name in (content, style)
    )
    assert first.keys() == second.keys()
    name, data = downloaded(page, "PNG")
    assert name == "page_content_ranks.png"
    with Image.open(io.BytesIO(data)) as picture:
        both = [canvas(page, i).bounding_box()["width"] for i in (0, 1)]
        assert picture.width > sum(both) and picture.getpixel((0, 0))[3] == 255

    viewer(page).get_by_label("Comparison").select_option("difference")
    expect(titles).to_have_text([f"{style} − {content}"])
    enter(page)
    said = details(page).split("\n")
    key = next(iter(first))
    assert said[0].startswith(f"{content}: lora_unet_")
    assert said[1].startswith(f"rank {first[key]},")
    other = next(line for line in said if line.startswith(style))
    assert f"rank {second[key]}," in said[said.index(other) + 1]
    assert page.complaints() == []


def test_the_other_colours(page, content):
    add(page, content)
    colours = viewer(page).get_by_label("What the colours show")
    before = canvas(page).screenshot()
    for choice in ("bytes", "rank90", "share", "nu"):
        colours.select_option(choice)
        await_totals(page, content)  # not that the singular values are being computed
        before = page.await_change(canvas(page), before)
    viewer(page).get_by_label("A row for").select_option("blocks")
    enter(page)
    assert len(re.findall(r"^rank \d+", details(page), re.MULTILINE)) == 2  # down 3 has two layers
    assert page.complaints() == []


def test_effects_are_a_colour_where_a_file_notes_them(page, content, by_effect):
    add(page, content)
    colours = viewer(page).get_by_label("What the colours show")
    effect = colours.locator("option[value=effect]")
    assert effect.count() == 0
    page.set(TYPE, lora_name=by_effect)
    await_totals(page, by_effect)
    before = canvas(page).screenshot()
    colours.select_option("effect")
    page.await_change(canvas(page), before)
    page.set(TYPE, lora_name=content)
    await_totals(page, content)
    assert effect.count() == 0
    assert colours.input_value() == "rank"
    assert page.complaints() == []


def test_rank_0_is_shown_and_not_asked_for(page, web_host, by_effect):
    add(page, by_effect)
    parts = rank_report.report_from_header(read_header(path_of(web_host, by_effect)))["components"]
    gone = {part["name"] for part in parts if part["rank"] == 0}
    assert gone and len(gone) < len(parts)
    assert re.search(r" \d+ % at rank 0 · ", details(page))
    asked = []
    page.tab.on("request", lambda request: asked.append(request.url))
    enter(page)
    for direction in ("ArrowRight", "ArrowLeft") * 12:
        for _ in range(7):
            if details(page).splitlines()[0] in gone:
                break
            page.tab.keyboard.press(direction)
        if details(page).splitlines()[0] in gone:
            break
        page.tab.keyboard.press("ArrowDown")
    assert details(page).splitlines()[1].startswith("rank 0: left out of the file, layer ")
    # what was passed on the way may have been asked for
    asked.clear()
    page.tab.keyboard.press("Enter")
    page.settle()
    assert not viewer(page).locator(".spectrum").is_visible()
    assert not [url for url in asked if "/lora2/spectra" in url]
    page.tab.keyboard.press("Escape")

    # sizes of all others, each beside its name
    viewer(page).get_by_label("What the colours show").select_option("share")
    # again, after the values of all layers are there
    expect(viewer(page).locator(".details .text")).to_have_text(re.compile("left out of the file"))
    _, data = downloaded(page, "CSV")
    there = components(read(path_of(web_host, by_effect)))
    for row in csv.DictReader(io.StringIO(data.decode("utf-8-sig"))):
        factors = there.get(row["name"])
        if factors is None:
            assert row["name"] in gone and row["rank"] == "0" and row["size"] == ""
        else:
            assert float(row["size"]) == pytest.approx(float(factors.delta().norm()), rel=1e-4)
    assert page.complaints() == []


def test_a_stranger_s_file_is_only_text(page, web_host):
    state = LoraState(metadata={"ss_output_name": "<script>window.pwned=1</script>", "t": "x" * 99})
    for name, rank in HOSTILE.items():
        state[f"{name}.lora_down.weight"] = torch.ones(rank, 4)
        state[f"{name}.lora_up.weight"] = torch.ones(4, rank)
    name = "<b>odd</b> & 'quoted'.safetensors"
    write(state, path_of(web_host, name), precision="fp16", overwrite=True)
    add(page, name)
    page.run()
    enter(page)
    seen = []
    for _ in range(2 * len(HOSTILE)):
        seen.append(details(page).splitlines()[0])
        page.tab.keyboard.press("Enter")
        expect(viewer(page).locator(".spectrum")).to_be_visible()
        page.tab.keyboard.press("ArrowDown")
    wanted = {'<img src=x onerror="window.pwned=1">', "<script>window.pwned=1</script>", "a·b·c··d"}
    assert wanted <= set(seen)
    assert max(map(len, seen)) <= 120
    name, data = downloaded(page, "CSV")
    assert name == "b_quoted__ranks.csv" and b"window.pwned" in data
    assert page.tab.evaluate("window.pwned") is None
    assert viewer(page).locator("b, img, script").count() == 0
    assert page.complaints() == []


def test_it_is_no_part_of_the_graph(page, content):
    add(page, content)
    sent = page.prompt()
    stored = page.graph()
    (node,) = sent.values()
    assert node["inputs"] == {"lora_name": content}
    page.run()
    assert page.prompt() == sent
    (kept,) = page.graph()["nodes"]
    assert kept["widgets_values"] == stored["nodes"][0]["widgets_values"] == [content]
    page.load(page.graph())  # as after a reload: it shows the file again
    await_totals(page, content)


def test_a_file_that_is_gone_or_no_lora(page, web_host, content):
    brief = path_of(web_host, "brief.safetensors")
    brief.write_bytes(path_of(web_host, content).read_bytes())
    path_of(web_host, "text.safetensors").write_text("no model")
    add(page, WIRE)
    assert "Run the graph" in viewer(page).inner_text()
    brief.unlink()
    page.set(TYPE, lora_name="brief.safetensors")
    expect(viewer(page)).to_contain_text("not in the loras folder")
    page.set(TYPE, lora_name="text.safetensors")
    expect(viewer(page)).to_contain_text("text.safetensors")
    page.set(TYPE, lora_name=content)
    await_totals(page, content)
