"""Interactive pages in a browser: what is seen, and what answers."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lsengine import render
from lsengine.surface import DONE, FAILED
from tests.support.landscapes import cliffs, make_plane
from tests.support.pictures import with_path


class Browser:
    """Headless Chromium with one page, and what it complained about."""

    def __init__(self, page: Any) -> None:
        self.page, self.complaints, self.requests = page, [], []
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))

    def _note(self, message: Any) -> None:
        if message.type == "error":
            self.complaints.append(message.text)

    def open(self, path: Path) -> None:
        """Load a page from disk and wait until it is drawn."""
        self.page.goto(path.as_uri())
        ready = "document.body !== null && document.body.dataset.ready === 'yes'"
        self.page.wait_for_function(ready, polling=100, timeout=60_000)
        self.settle()

    def settle(self) -> None:
        """Wait until the screen has been drawn twice."""
        twice = "new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))"
        self.page.evaluate(twice)
        self.page.evaluate(twice)

    def pixels(self, index: int = 0) -> np.ndarray:
        """Return what a scene looks like; RGB."""
        shot = self.page.locator(".scene").nth(index).screenshot()
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)

    def changes(self, before: np.ndarray, index: int = 0, least: float = 0.03) -> float:
        """Return how much a scene differs from before, waiting for it to do so."""
        for _ in range(40):
            apart = float(np.abs(self.pixels(index) - before).mean())
            if apart > least:
                break
            self.page.wait_for_timeout(100)
        return apart

    def hover(self, right: float, down: float) -> dict[str, str]:
        """Move the pointer over the first scene; return what is shown."""
        box = self.page.locator(".scene").first.bounding_box()
        for wiggle in (0.0, 0.01, -0.01, 0.02, -0.02):
            x = box["x"] + box["width"] * (right + wiggle)
            self.page.mouse.move(x, box["y"] + box["height"] * down)
            for _ in range(6):
                self.settle()
            if self.page.locator("#tip").evaluate("e => e.style.visibility") == "visible":
                rows = self.page.locator("#tip tr").all_inner_texts()
                return dict(row.split("\t") for row in rows)
        return {}


@pytest.fixture(scope="module")
def only_page() -> Iterator[Browser]:
    """A headless Chromium with the one page that all tests load theirs into."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no Chromium (Debian: apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    software = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=program, args=software)
        yield Browser(chromium.new_page())
        chromium.close()


@pytest.fixture
def browser(only_page) -> Iterator[Browser]:
    """The page, which must end without complaints and requests but for itself."""
    only_page.page.set_viewport_size({"width": 560, "height": 420})
    only_page.complaints.clear()
    only_page.requests.clear()
    yield only_page
    assert not only_page.complaints
    assert all(url.startswith(("file:", "blob:", "data:")) for url in only_page.requests)
    only_page.page.goto("about:blank")


def test_a_page_draws_and_answers(browser, tmp_path):
    """From disk, without a network: many colours, the values of the cell under the pointer.

    The quantity and the scale can be chosen, and change the picture.
    """
    surface = with_path(make_plane(cliffs, alphas=21, betas=21, name="a surface"))
    path = render.write([surface], tmp_path / "a.html", kind="html")
    browser.open(path)
    first = browser.pixels()
    assert len(np.unique(first.reshape(-1, 3), axis=0)) > 500
    assert browser.page.title() == "a surface"
    numbers = browser.page.evaluate(
        "document.querySelector('.scene')._fullLayout.scene.zaxis.tickvals"
    )
    assert len(numbers) > 2
    assert min(numbers) > 0.05, "at the floor it would meet a number of alpha or beta"

    told = browser.hover(0.5, 0.62)
    alpha, beta = (
        float(told[n].replace("\N{MINUS SIGN}", "-"))
        for n in ("\N{GREEK SMALL LETTER ALPHA}", "\N{GREEK SMALL LETTER BETA}")
    )
    at = (
        int(np.abs(surface.axes["beta"] - beta).argmin()),
        int(np.abs(surface.axes["alpha"] - alpha).argmin()),
    )
    assert float(told["training loss"]) == pytest.approx(
        surface.quantities["train_loss"][at], rel=1e-5
    )
    accuracy = 100 * surface.quantities["test_accuracy"][at]
    assert float(told["test accuracy (%)"]) == pytest.approx(accuracy, rel=1e-5)
    assert told["status"] == "done"

    browser.page.mouse.move(5, 5)
    for change in (
        lambda: browser.page.select_option("#quantity", "test_accuracy"),
        lambda: (
            browser.page.select_option("#quantity", "train_loss"),
            browser.page.check("input[value=linear]"),
        ),
        lambda: browser.page.uncheck("#lines"),
    ):
        before = browser.pixels()
        change()
        assert browser.changes(before) > 0.03


WHERE = """() => {
  const plot = document.querySelector(".scene"), scene = plot._fullLayout.scene._scene;
  const marks = plot.data.find((t) => t.name === "marks"), camera = scene.glplot.cameraParams;
  const times = (m, v) => [0, 1, 2, 3].map((i) => v.reduce((s, x, j) => s + m[4 * j + i] * x, 0));
  return marks.x.map((x, i) => {
    const place = [x, marks.y[i], marks.z[i]].map((v, j) => v * scene.dataScale[j]);
    const at = [camera.model, camera.view, camera.projection].reduce(
      (v, m) => times(m, v), [...place, 1]);
    return [(1 + at[0] / at[3]) / 2, (1 - at[1] / at[3]) / 2];
  });
}"""
"""Where the marks are in the first scene, right and down, as shares of it."""


def test_marks_are_named_above_everything_and_answer(browser, tmp_path):
    """Each name is whole, in the scene, over the pin that ends in its mark.

    Under the pointer a mark has its name and its cell, and it is seen.
    """
    surface = with_path(make_plane(cliffs, name="a surface"))
    browser.open(render.write([surface], tmp_path / "a.html", kind="html"))
    browser.page.uncheck("#path")
    scene = browser.page.locator(".scene").first.bounding_box()
    places = browser.page.evaluate(WHERE)
    for name, (right, down), alpha in zip(
        ("centre", "other minimum"), places, ("0", "1"), strict=True
    ):
        word = browser.page.locator(".scene svg text", has_text=name).bounding_box()
        middle = (word["x"] + word["width"] / 2 - scene["x"]) / scene["width"]
        assert abs(middle - right) < 0.1
        assert 0 < word["y"] - scene["y"] < down * scene["height"]
        told = browser.hover(right, down)
        assert name in told
        assert told["\N{GREEK SMALL LETTER ALPHA}"] == alpha
        assert told["status"] == "done"
        browser.page.mouse.move(5, 5)
    right, down = places[0]
    seen = browser.pixels()
    rows, columns = int(down * seen.shape[0]), int(right * seen.shape[1])
    around = seen[rows - 4 : rows + 5, columns - 4 : columns + 5]
    assert (around.max(axis=-1) < 60).sum() > 8, "the cross has sunk into the surface"
    captions = browser.page.locator("figcaption small").all_inner_texts()
    assert captions[0] == "test error 7.00 % at the centre"
    assert captions[1].startswith("other minimum ")


def test_cameras_are_linked(browser, tmp_path):
    """Turning one scene turns the others."""
    surfaces = [make_plane(name="left"), make_plane(name="right")]
    browser.open(render.write(surfaces, tmp_path / "a.html", kind="html"))
    before = browser.pixels(1)
    np.testing.assert_allclose(browser.pixels(0).mean(), before.mean(), atol=2)
    box = browser.page.locator(".scene").first.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    browser.page.mouse.move(*middle)
    browser.page.mouse.down()
    browser.page.mouse.move(middle[0] + 90, middle[1] + 10, steps=6)
    browser.page.mouse.up()
    assert browser.changes(before, 1, 1.0) > 1
    eyes = browser.page.evaluate(
        "Array.from(document.querySelectorAll('.scene')).map(s => s._fullLayout.scene.camera.eye)"
    )
    assert eyes[0] == pytest.approx(eyes[1], abs=1e-6)


def test_a_page_of_a_running_surface_renews_itself(browser, tmp_path):
    """It loads itself anew and keeps what was chosen; when the run is complete it rests."""
    status = np.full((21, 21), DONE, np.uint8)
    status[:, 12:] = 0
    partial = make_plane(status=status)
    path = render.write([partial], tmp_path / "a.html", kind="html", reload_s=5.0)
    browser.open(path)
    assert "252 of 441 cells" in browser.page.inner_text("#live")
    browser.page.select_option("#quantity", "test_accuracy")
    render.write([make_plane()], path, kind="html")
    browser.page.wait_for_function(
        "document.body.dataset.ready && !document.getElementById('live').textContent",
        timeout=60_000,
        polling=100,
    )
    assert browser.page.input_value("#quantity") == "test_accuracy"


@pytest.mark.parametrize(
    "surface",
    [
        make_plane(alphas=1, betas=1, reach=(0, 0)),
        make_plane(lambda a, b: np.where(a * a + b * b > 0.3, np.inf, 1 + a * a)),
        make_plane(status=(np.indices((21, 21)).sum(0) % 2).astype(np.uint8)),
    ],
    ids=["one cell", "infinite outside", "chequered"],
)
def test_strange_surfaces_are_seen(browser, tmp_path, surface):
    """Something of their colours is on the screen, and nothing is complained about."""
    browser.open(render.write([surface], tmp_path / "a.html", kind="html"))
    seen = browser.pixels()
    colorful = np.ptp(seen, axis=-1) > 40
    assert colorful.sum() > 20


def test_failed_cells_are_crosses_of_lines_and_everything_fits(browser, tmp_path):
    """Two strokes for each failed cell, no letters of the viewer's that a font may lack.

    In a window of 1100 x 700 nothing has to be scrolled to.
    """
    surface = make_plane(alphas=11, betas=11)
    surface.status[2, 3] = FAILED
    surface.quantities["train_loss"][4, 5] = np.nan
    browser.page.set_viewport_size({"width": 1100, "height": 700})
    browser.open(render.write([surface], tmp_path / "a.html", kind="html"))
    traces = browser.page.evaluate(
        "document.querySelector('.scene').data.map(t => ({name: t.name, mode: t.mode, x: t.x,"
        " symbol: t.marker && t.marker.symbol}))"
    )
    (crosses,) = (t for t in traces if t["name"] == "no finite value")
    assert crosses["mode"] == "lines"
    places = np.array([x for x in crosses["x"] if x is not None]).reshape(2, 4)
    np.testing.assert_allclose(places.mean(axis=1), surface.axes["alpha"][[3, 5]], atol=1e-9)
    assert not any("x" in (t["symbol"] or []) for t in traces)
    heights = browser.page.evaluate("[document.documentElement.scrollHeight, innerHeight]")
    assert heights[0] <= heights[1]
    assert "failed, or not a finite number" in browser.page.inner_text("#notes")


CORNERS = """() => {
  const full = document.querySelector(".scene")._fullLayout.scene, scene = full._scene;
  const camera = scene.glplot.cameraParams, shown = [];
  const times = (m, v) => [0, 1, 2, 3].map((i) => v.reduce((s, x, j) => s + m[4 * j + i] * x, 0));
  for (const x of full.xaxis.range) for (const y of full.yaxis.range) for (const z of [0, 1]) {
    const place = [x, y, z].map((v, j) => v * scene.dataScale[j]);
    const at = [camera.model, camera.view, camera.projection].reduce(
      (v, m) => times(m, v), [...place, 1]);
    shown.push([(1 + at[0] / at[3]) / 2, (1 - at[1] / at[3]) / 2]);
  }
  return shown;
}"""
"""Where the corners of the first landscape are, right and down, as shares of its scene."""


@pytest.mark.parametrize(("count", "size"), [(1, (1500, 700)), (1, (500, 900)), (5, (1500, 900))])
def test_the_page_uses_the_whole_window(browser, tmp_path, count, size):
    """Scenes reach from the head to the lower edge, and the landscape from edge to edge of one.

    Nothing has to be scrolled to, in windows of any shape; a title is there, too.
    """
    surfaces = [make_plane(cliffs, name=str(i)) for i in range(count)]
    browser.page.set_viewport_size(dict(zip(("width", "height"), size, strict=True)))
    path = render.write(surfaces, tmp_path / "a.html", kind="html", title="The title")
    browser.open(path)
    assert "The title" in browser.page.inner_text("body")
    heights = browser.page.evaluate("[document.documentElement.scrollHeight, innerHeight]")
    assert heights[0] <= heights[1]
    boxes = [scene.bounding_box() for scene in browser.page.locator(".scene").all()]
    notes = browser.page.locator("#notes").bounding_box()
    assert max(box["y"] + box["height"] for box in boxes) > notes["y"] - 15
    assert max(box["x"] + box["width"] for box in boxes) > size[0] - 130, "the bar is beside it"
    rows = -(-count // 3)
    assert sum(box["height"] for box in boxes[:: -(-count // rows)]) > 0.75 * size[1] - 60 * rows
    corners = np.array(browser.page.evaluate(CORNERS))
    assert corners.min() > 0
    assert corners.max() < 1
    assert np.ptp(corners, axis=0).max() > 0.8
