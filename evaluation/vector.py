"""Figures as SVG for pages: text stays text, and lines and letters take the colour of the page, light or dark."""

import hashlib
import html
import io
import re

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK = "#010203"  # drawn by no figure; stands for the colour of the page's text
DECIMALS = re.compile(r"(\d+\.\d\d)\d+")
TAG = re.compile(r"<[^>]+>")
STYLE = {
    "svg.fonttype": "none",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": "none",
    "legend.facecolor": "none",
}


def as_svg(figure: Figure, label: str) -> str:
    """A figure as an `<svg>` element for inlining.

    Black becomes the colour of the text around it (`currentColor`), the background is transparent, coordinates keep
    two decimals (a hundredth of 1/72 inch), and the element scales with its box. Equal figures give equal text.

    Args:
        figure: any figure; draw it inside `page_colours` for axes and text in the colour of the page.
        label: what screen readers say.
    """
    buffer = io.StringIO()
    salt = hashlib.sha256(label.encode()).hexdigest()[:12]  # identifiers of one page are not to meet
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        FigureCanvasSVG(figure).print_svg(
            buffer, metadata={"Date": None, "Creator": None, "Type": None, "Format": None}
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    head, _, body = text.partition(">")
    box = re.search(r'viewBox="[^"]*"', head).group(0)
    body = re.sub(INK + "|#000000", "currentColor", body)
    body = re.sub(r'<g id="patch_1">.*?</g>', "", body, count=1, flags=re.DOTALL)  # the figure's white ground
    body = re.sub(r"font-family: [^;\"]*; ?", "", body)
    body = TAG.sub(lambda tag: DECIMALS.sub(r"\1", tag[0]), body)  # coordinates, not the text between the tags
    body = re.sub(r"\n\s*", "\n", body)
    return f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {box} role="img" aria-label="{html.escape(label)}">{body}'


def page_colours():
    """A context in which figures draw their text and axes in the colour of the page."""
    return matplotlib.rc_context(STYLE)
