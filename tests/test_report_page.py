"""The HTML report: what is on it, and how it behaves in a real browser."""

import re
import shutil

import pytest
from rich.console import Console
from stored_runs import cells, store

from ganspect.reproduce import anogan_ganomaly, cbigan, fcbigan, gallery, grdnet, page, report
from ganspect.training.files import write_json

PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A runs folder with three finished runs and one that failed, reported."""
    folder = tmp_path_factory.mktemp("report") / "runs"
    for seed, skill in ((0, 0.4), (1, 0.2)):
        store(folder, "cbigan", "weave", seed, skill)
    store(folder, "bigan", "object", 0, 0.1)
    failed = store(folder, "autoencoder", "weave", 0, 0.2)
    failed.set_status("failed", message="<b>no</b> room & no time")
    report.write(cbigan, cells(folder), folder, Console(quiet=True))
    report.write_index([cbigan, fcbigan, grdnet, anogan_ganomaly], folder)
    return folder


@pytest.fixture(scope="module")
def text(runs):
    return (runs / "cbigan" / "report.html").read_text(encoding="utf-8")


def test_nothing_is_loaded_from_elsewhere(text, runs):
    for name, content in (("report", text), ("index", (runs / "index.html").read_text(encoding="utf-8"))):
        links = re.findall(r'(?:src|href)="([^"]*)"', content)
        assert links and not [x for x in links if x.startswith(("http", "//", "/"))], name
        assert "@import" not in content and "url(" not in content.replace("url(#", "")


def test_every_cell_links_to_its_runs(text):
    row = next(
        r
        for r in re.findall(r"<tr.*?</tr>", text)
        if '<td>weave</td><td>CBiGAN</td><td class="metric">image_auroc' in r
    )
    assert re.findall(r'href="#(run-[^"]*)"', row) == [f"run-synthetic-cbigan-weave-seed_{n}" for n in (0, 1)]
    assert 'id="run-synthetic-cbigan-weave-seed_1"' in text


def test_names_from_outside_are_escaped(text):
    assert "&lt;b&gt;no&lt;/b&gt; room &amp; no time" in text and "<b>no</b>" not in text


def test_errors_come_first_in_the_gallery():
    labels, scores = [0, 0, 0, 1, 1, 1, 1], [0.1, 0.9, 0.7, 0.2, 0.5, 0.8, 0.3]
    found = gallery.choose(labels, scores, 0.5, each=2)
    expected = [("false alarm", 1), ("false alarm", 2), ("miss", 3), ("miss", 6), ("hit", 5), ("hit", 4), ("passed", 0)]
    assert found == expected


def test_pictures_that_do_not_fit_are_counted(runs, monkeypatch):
    everything = page.page(cbigan, cells(runs), runs, {}, ())
    pictures = everything.count("data:image/")
    room = len(everything.encode()) - 40_000
    monkeypatch.setattr(page, "MEGABYTES", room / 1e6)
    smaller = page.page(cbigan, cells(runs), runs, {}, ())
    assert len(smaller.encode()) <= room + 1000  # the sentences that say so
    left_out = sum(map(int, re.findall(r"(\d+) more pictures are in", smaller)))
    assert 0 < left_out == pictures - smaller.count("data:image/")


def test_a_page_of_very_many_runs_leaves_out_drawings(runs, monkeypatch):
    monkeypatch.setattr(page, "MEGABYTES", 0.0)
    least = len(page.page(cbigan, cells(runs), runs, {}, ()).encode())
    monkeypatch.setattr(page, "MEGABYTES", (least + 50_000) / 1e6)
    text = page.page(cbigan, cells(runs), runs, {}, ())
    assert least < len(text.encode()) <= least + 51_000
    drawn = [bool(re.search("Histograms by defect type", part)) for part in text.split('<details class="run"')[1:]]
    assert drawn[0] and not all(drawn[:3])


def test_a_run_of_an_earlier_version_still_has_a_page(tmp_path):
    run = store(tmp_path, "cbigan", "weave", shown=False)
    metrics = run.metrics
    for protocol in metrics["protocols"].values():
        for score in protocol.values():
            score.pop("by_defect", None)
    write_json(run.metrics_path(), metrics)
    report.write(cbigan, cells(tmp_path), tmp_path, Console(quiet=True))
    assert "CBiGAN: finished" in (tmp_path / "cbigan" / "report.html").read_text(encoding="utf-8")


def test_the_index_leads_to_every_page(runs):
    index = (runs / "index.html").read_text(encoding="utf-8")
    assert 'href="cbigan/report.html"' in index and "fcbigan" not in index
    assert "3 of 4 runs finished (1 failed)" in index


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium here: install Debian's package chromium")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=[*flags, "--disable-component-update"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, runs):
    """Opens a page in a window; anything that its console says, or that it asks the network for, is an error."""
    context = browser.new_context()
    said = []

    def open_page(name="cbigan/report.html", **options):
        context.set_offline(True)
        view = context.new_page()
        view.on("console", lambda message: said.append(message.text))
        view.on("pageerror", lambda error: said.append(str(error)))
        view.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
        if options:
            view.set_viewport_size(options)
        view.goto((runs / name).as_uri())
        return view

    yield open_page
    context.close()
    assert not said


def test_images_load_and_links_resolve(opened, runs):
    view = opened()
    view.click("button.all-runs")
    images = view.eval_on_selector_all("img", "all => all.map(i => i.complete && i.naturalWidth > 0)")
    assert len(images) > 20 and all(images)
    links = view.eval_on_selector_all("a", "all => all.map(a => a.getAttribute('href'))")
    assert len(links) > 20
    assert [x for x in links if not view.evaluate("id => !!document.getElementById(id)", x.removeprefix("#"))] == []
    index = opened("index.html")
    files = index.eval_on_selector_all("a", "all => all.map(a => a.getAttribute('href'))")
    assert len(files) == len(report.FILES) and all((runs / file).is_file() for file in files)
    index.click("h2 a")
    assert index.title() == cbigan.TITLE


def test_a_link_to_a_run_opens_it(opened):
    view = opened()
    run = "#run-synthetic-cbigan-weave-seed_1"
    assert not view.evaluate(f"document.querySelector('{run}').open")
    view.locator(f"a[href='{run}']").first.click()
    view.wait_for_function(f"document.querySelector('{run}').open")


def test_headings_sort(opened):
    view = opened()
    table = "section.table:first-of-type table"
    column = "rows => rows.map(r => r.cells[4].innerText).filter(Boolean).map(parseFloat)"
    head = view.locator(f"{table} th", has_text="paper protocol").locator("button")
    head.focus()
    view.keyboard.press("Enter")
    rising = view.eval_on_selector_all(f"{table} tbody tr", column)
    assert len(rising) > 3 and rising == sorted(rising)
    head.click()
    assert view.eval_on_selector_all(f"{table} tbody tr", column) == sorted(rising, reverse=True)
    blank = view.eval_on_selector_all(f"{table} tbody tr", "rows => rows.map(r => r.cells[4].innerText === '')")
    assert blank == sorted(blank)  # cells without a value stay last


def test_what_is_not_both_printed_and_measured_is_shown_on_request(opened):
    view = opened()
    rows = view.locator("tr.beyond")
    assert rows.count() and not rows.first.is_visible()
    view.locator("button", has_text="beyond the paper").first.click()
    assert rows.first.is_visible()
    printed = view.locator("tr.unmeasured").first
    assert not printed.is_visible()
    view.locator("button", has_text="without a measurement").first.click()
    assert printed.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_horizontal_scrolling(opened, scheme):
    for name in ("cbigan/report.html", "index.html"):
        view = opened(name, **PHONE)
        view.emulate_media(color_scheme=scheme)
        if "report" in name:
            view.click("button.all-runs")
        assert view.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        ground, ink = (view.evaluate(f"getComputedStyle(document.body).{x}") for x in ("backgroundColor", "color"))
        brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ground, ink)]
        assert (brightness[0] > brightness[1]) == (scheme == "light")


def test_a_run_without_a_history_still_has_a_page(tmp_path):
    from ganspect.reproduce.cli import main

    (store(tmp_path, "cbigan").path / "history.csv").unlink()
    assert main(["report", "cbigan", "--runs-dir", str(tmp_path)]) == 0
    assert "seed_0" in (tmp_path / "cbigan" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("status.json", '{"state": '),
        ("metrics.json", '{"protocols"'),
        ("curves.json", "["),
        ("manifest.json", None),
        ("history.csv", "epoch,step\n"),
    ],
)
def test_a_damaged_run_is_named_and_left_out(tmp_path, capsys, name, content):
    from ganspect.reproduce.cli import main

    sound, spoilt = (store(tmp_path, "cbigan", seed=seed) for seed in (0, 1))
    if content is None:
        (spoilt.path / name).unlink()
    else:
        (spoilt.path / name).write_text(content)
    assert [cell.seed for cell in cells(tmp_path)] == [0]
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(spoilt.path / name) in said
    assert main(["report", "cbigan", "--runs-dir", str(tmp_path)]) == 0
    assert "seed_0" in (tmp_path / "cbigan" / "report.html").read_text(encoding="utf-8")
