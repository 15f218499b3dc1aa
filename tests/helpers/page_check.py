"""What a person would see on a page: texts that are cut off, overlap or lie off the screen."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")

GEOMETRY = """() => {
  const faults = [], width = document.documentElement.clientWidth, boxes = [];
  const say = (what, text) => faults.push(what + ': ' + text.trim().slice(0, 60));
  if (document.documentElement.scrollWidth > width) say('page is wider than the screen', '');
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, text = node.textContent, range = document.createRange();
    if (!text.trim() || !node.parentElement.checkVisibility()) continue;
    range.selectNodeContents(node);
    const lines = new Set([...range.getClientRects()].map(box => box.top)).size;
    if (lines > 2 && text.trim().length / lines < 4) say('broken into letters', text);
    for (const box of range.getClientRects()) {
      if (box.width < 1 || box.height < 1) continue;
      let scrolled = false;
      for (let up = node.parentElement; up; up = up.parentElement) {
        const style = getComputedStyle(up), place = up.getBoundingClientRect();
        const hidden = style.overflowX !== 'visible' && up !== document.documentElement;
        const reached = up.scrollWidth > up.clientWidth && up.tabIndex === 0;
        scrolled ||= hidden && reached;
        if (up instanceof SVGElement || !hidden || reached) continue;
        const outside = box.left < place.left - 1 || box.right > place.right + 1;
        if (outside && !scrolled) say('cut off', text);
      }
      const off = box.left < -0.5 || box.right > width + 0.5;
      if (off && !scrolled) say('off the screen', text);
      if (scrolled && width < 700) say('is to be scrolled on a phone', text);
      boxes.push({box, text, node});
    }
  }
  boxes.sort((a, b) => a.box.top - b.box.top);
  boxes.forEach((one, i) => {
    for (let j = i + 1; j < boxes.length && boxes[j].box.top < one.box.bottom - 3; j++) {
      const other = boxes[j];
      const meet = Math.min(one.box.right, other.box.right)
        - Math.max(one.box.left, other.box.left);
      if (meet > 2 && one.node !== other.node) {
        say('overlap', one.text.trim().slice(0, 25) + ' | ' + other.text);
      }
    }
  });
  return faults;
}"""
"""Run on a page: a sentence for every text that a reader cannot read whole."""


@contextmanager
def chromium() -> Iterator[Any]:
    """The system's browser; a test that needs it is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def axe_script() -> str:
    """axe-core's source."""
    from importlib.resources import files

    pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
    return (files("axe_playwright_python") / "axe.min.js").read_text("utf-8")


REPEATED = [
    ".plot ~ .plot",
    ".flow li ~ li",
    ".row ~ .row",
    ".bubble ~ .bubble",
    "tr ~ tr ~ tr",
    "details ~ details .four",
]
"""Later ones have the same markup as the first, and axe takes its time for each."""


def serious(page: Any) -> list[str]:
    """axe-core's serious and critical violations of a page."""
    page.evaluate(axe_script())
    call = "exclude => axe.run({exclude}, {resultTypes: ['violations']})"
    found = page.evaluate(call, REPEATED)["violations"]
    return [
        f"{v['id']}: {v['nodes'][0]['html'][:200]}"
        for v in found
        if v["impact"] in ("serious", "critical")
    ]
