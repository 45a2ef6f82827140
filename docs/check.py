"""Open every page of the built site in headless Chromium: `python3 run.py site --check`.

The pages are served on this machine alone. Each is opened wide and narrow: no error in the console, no
request to another host, no missing file, every formula set, every picture shown, nothing wider than the
screen; a screenshot each lies in build/site-check. Links are followed in the files. The figure of notebook 01
is moved by its keys, and its numbers are held against rsf. Needs Debian's packages chromium and
chromium-driver, or others on the path.
"""

import functools
import json
import re
import shutil
import sys
import threading
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
SHOTS = ROOT / "build" / "site-check"
PLANTED = """<!doctype html><title>planted</title><script src="https://other.invalid/x.js"></script>
<article style="width: 3000px"><img src="nowhere.png"><span class="math">x</span><p>$$</p>
<p>| --- |</p></article>
<script>throw new Error("planted")</script>"""
FAULTS = ("another host", "console", "not found", "no picture", "without words", "markup", "not set", "wider")
SCREENS = {"wide": (1280, 900), "narrow": (390, 844)}  # CSS pixels
SEEN = """
const shown = [...document.images].filter(one => one.getClientRects().length);
return {
  title: document.title,
  formulas: document.querySelectorAll("article .math").length,
  set: document.querySelectorAll("article .math mjx-container").length,
  wrong: document.querySelectorAll("mjx-merror, article .problematic").length,
  missing: shown.filter(one => one.complete && !one.naturalWidth).map(one => one.src),
  silent: [...document.images].filter(one => !one.alt).map(one => one.src),
  width: document.documentElement.scrollWidth,
  languages: document.querySelectorAll(".languages a").length,
  words: [...document.querySelectorAll(".sidebar-tree .caption, .sidebar-brand-text, .toc-title")]
    .map(one => one.textContent)
    .concat([...document.querySelectorAll("[aria-label], [placeholder]")]
      .map(one => one.ariaLabel || one.placeholder)),
  left: [...document.querySelectorAll("article p, article li")].map(one => one.textContent)
    .filter(text => /\\$\\$|\\\\\\(|\\{\\{|<details|<\\/details|\\| [-\u2014]+ \\|/.test(text)),
};
"""
SETTLED = """
const done = arguments[0];
const typeset = window.MathJax && window.MathJax.startup && window.MathJax.startup.promise;
const scripts = [...document.scripts].some(one => one.src.includes("tex-chtml"));
if (scripts && !typeset) setTimeout(() => done(false), 50);
else Promise.resolve(typeset).then(() => requestAnimationFrame(() => done(true)));
"""


class Links(HTMLParser):
    """What a page points to, and the places in it that can be pointed to."""

    def __init__(self, text):
        super().__init__()
        self.targets = []
        self.places = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.places |= {given.get("id"), given.get("name")}
        self.targets += [given[key] for key in ("href", "src") if given.get(key)]


def broken_links(site):
    """Return the links of the site that lead nowhere, and the hosts that a page itself would ask."""
    files = {file: Links(file.read_text(encoding="utf-8")) for file in sorted(site.rglob("*.html"))}
    found = []
    for file, links in files.items():
        for target in links.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue  # a reader may follow it; the browser below sees what a page asks by itself
            there = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if not there.is_file():
                found.append(f"{file.relative_to(site)}: {target} is not there")
            elif parts.fragment and there in files and unquote(parts.fragment) not in files[there].places:
                found.append(f"{file.relative_to(site)}: {target} has no such place")
    return found


def driver():
    """Return a headless Chromium that logs its console and its requests."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "hide-scrollbars", "disable-dev-shm-usage"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    program = shutil.which("chromedriver")
    if program is None:
        sys.exit("site --check needs a browser: apt-get install chromium chromium-driver")
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(program))


def requests(browser):
    """Yield the address of each request since the last call, with the answer's status if it failed."""
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            yield message["params"]["request"]["url"], None
        elif message["method"] == "Network.responseReceived":
            answer = message["params"]["response"]
            if answer["status"] >= 400:
                yield answer["url"], answer["status"]


def look(browser, address, page, screen):
    """Open a page on a screen, store a screenshot, and return what is wrong with it."""
    width, height = SCREENS[screen]
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": screen == "narrow"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(f"{address}/{page}")
    settled = any(browser.execute_async_script(SETTLED) for _ in range(200))  # waits 50 ms each time
    seen = browser.execute_script(SEEN)
    browser.save_screenshot(str(SHOTS / f"{page.removesuffix('.html').replace('/', '-')}-{screen}.png"))
    logged = [entry["message"] for entry in browser.get_log("browser") if entry["level"] != "INFO"]
    asked = list(requests(browser))
    local = (f"{address}/", "data:", "blob:", "about:")
    unset = seen["formulas"] - seen["set"] + seen["wrong"]
    problems = {
        "the console says": logged,
        "asks another host": [url for url, _ in asked if not url.startswith(local)],
        "was not found": [url for url, status in asked if status],
        "has no picture at": seen["missing"],
        "has a picture without words": seen["silent"],
        "has markup in its text": seen["left"],
        "has formulas not set, or set wrongly:": [unset] if unset or not settled else [],
        "is wider than the screen": [seen["width"]] if seen["width"] > width else [],
        "asked for nothing at all": [] if asked else [page],
        "has no switch to another language": [] if seen["languages"] else [page],
        "has English words around it": [
            word for word in seen["words"] if page.startswith("zh/") and word.isascii()
        ],
    }
    lines = [f"{page}, {screen}: {what} {one}" for what, every in problems.items() for one in every]
    return lines, seen["formulas"], len(asked)


HITS = """
const done = arguments[0];
const wait = left => {
  const said = document.querySelector("#search-results .search-summary");
  if (left && !(said && said.textContent.trim())) setTimeout(() => wait(left - 1), 50);
  else done(document.querySelectorAll("#search-results ul.search > li").length);
};
wait(100);
"""
MOVES = [  # of the figure: what is pressed one after another, by keys alone
    "",
    "place ARROW_RIGHT 10, width ARROW_RIGHT 5",
    "bound ENTER 1",
    "below SPACE 1",
    "width HOME 1, k END 1",
    "start ENTER 1, k HOME 1, size END 1",
]
ROWS = """
const rows = [...document.querySelectorAll("#rows tr")];
return rows.map(row => [...row.children].map(cell => Number(cell.textContent)));
"""
SAID = "setTimeout(() => arguments[0](document.getElementById('said').textContent), 400)"


def figure(browser, address, page="notebooks/01_accept_or_reject.html"):
    """Move the figure of notebook 01 by its keys, and return where its numbers are not those of rsf."""
    import numpy as np
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    width, height = SCREENS["wide"]
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(f"{address}/{page}")
    frame = browser.find_element(By.CSS_SELECTOR, "iframe[srcdoc]")
    browser.execute_script("arguments[0].scrollIntoView()", frame)
    browser.switch_to.frame(frame)
    found = []
    for number, move in enumerate(MOVES):
        for step in filter(None, move.split(", ")):
            name, key, times = step.split()
            browser.find_element(By.ID, name).send_keys(getattr(Keys, key) * int(times))
        shown = {
            name: float(browser.find_element(By.ID, f"{name}-value").get_attribute("data-exact"))
            for name in ("k", "place", "width", "size")
        }
        said = browser.execute_async_script(SAID)
        rows = np.array(browser.execute_script(ROWS))
        found += [f"the figure of {page} after {move!r}: {line}" for line in unlike_rsf(shown, said, rows)]
        if said.isascii() == page.startswith("zh/"):
            found.append(f"the figure of {page} speaks another language: {said}")
        browser.save_screenshot(str(SHOTS / f"figure-{number}.png"))
    browser.switch_to.default_content()
    return found


def unlike_rsf(shown, said, rows):
    """Return where the numbers that the figure shows are not those of rsf, which sums over a fine grid."""
    import numpy as np
    from scipy import stats

    from rsf import finite
    from rsf.acceptance import acceptance_probability, log_acceptance
    from rsf.sampling import log_k_bound

    p, q = stats.norm(), stats.laplace(shown["place"], shown["width"])
    grid = np.linspace(-60, 60, 240_001)  # its cells are 0.0005 wide, beyond it q has less than 1e-8
    log_p, log_q = p.logpdf(grid), q.logpdf(grid)
    log_bound = log_acceptance(log_p, log_q, 0).max()
    safe = log_k_bound(p, q, (-np.inf, np.inf))  # above it by a margin of its own
    bound = np.exp(log_bound)
    below = "min(p, k q)" in said  # in either language
    k = shown["k"]
    masses = np.exp(log_q) / np.exp(log_q).sum()
    a = acceptance_probability(log_p, log_q, np.log(k))
    law, rate = finite.accepted_law(masses, a)
    at = np.rint((rows[:, 0] + 60) / 120 * (len(grid) - 1)).astype(int)
    numbers = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", said)]
    kept, size, seen, expected, told, *rest = numbers
    apart = np.abs(law - np.exp(log_p) / np.exp(log_p).sum()).sum() / 2 if below else 0.0
    pairs = {  # what the figure shows, what rsf says, how far they may differ
        "rate expected": (expected, rate, 6e-5),
        "rate seen": (seen, kept / size, 6e-5),
        "kept, in standard errors": ((kept - size * rate) / np.sqrt(size * rate * (1 - rate) + 1), 0, 4),
        "smallest valid k": (told, bound, 6e-5),
        "smallest valid k, at the most": (max(told, np.exp(safe)), np.exp(safe), 0),
        "candidates": (size, shown["size"], 0),
        "distance": (rest[0] if below else 0.0, apart, 6e-5),
        "p": (rows[:, 1], p.pdf(rows[:, 0]), 6e-5),
        "k q": (rows[:, 2], k * q.pdf(rows[:, 0]), 6e-5 * max(k, 1)),
        "A": (rows[:, 3], a[at], 6e-5),
        "law of what is kept": (rows[:, 4], law[at] / 0.0005, 1e-4),
        "below the bound": (below, k < bound * (1 - 1e-9), 0),
    }
    return [
        f"{what}: shown {theirs}, rsf {ours}"
        for what, (theirs, ours, within) in pairs.items()
        if not np.allclose(theirs, ours, rtol=0, atol=within)
    ]


def search(browser, address):
    """Return whether a word of the notebooks is not found, or one that is nowhere is."""
    wanted = {"envelope": True, "xylophone": False, "包络": True, "拒绝采样": True, "木琴": False}
    found = []
    for word, there in wanted.items():
        browser.get(f"{address}/search.html?q={word}")
        hits = browser.execute_async_script(HITS)
        if bool(hits) != there:
            found.append(f"a search for {word!r} finds {hits} pages")
    return found


def counter_check(browser, address, site):
    """Return which of the planted faults of a page the look at it did not see: it must see all."""
    planted = site / "planted.html"
    planted.write_text(PLANTED, encoding="utf-8")
    try:
        lines, *_ = look(browser, address, planted.name, "wide")
    finally:
        planted.unlink()
    return [f"a planted fault was not seen: {fault}" for fault in FAULTS if fault not in "\n".join(lines)]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def main(site):
    if not (site / "index.html").is_file():
        sys.exit("build the site first: python3 run.py site")
    shutil.rmtree(SHOTS, ignore_errors=True)
    SHOTS.mkdir(parents=True)
    found = broken_links(site)
    sys.path.insert(0, str(ROOT))
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    browser = driver()
    pages = sorted(file.relative_to(site).as_posix() for file in site.rglob("*.html"))
    pages = [page for page in pages if not page.startswith("_static/")]
    formulas = asked = 0
    try:
        for page in pages:
            for screen in SCREENS:
                lines, set_, requested = look(browser, address, page, screen)
                found += lines
                formulas += set_
                asked += requested
        found += figure(browser, address)
        found += figure(browser, address, "zh/notebooks/01_accept_or_reject.html")
        found += search(browser, address)
        found += counter_check(browser, address, site)
    finally:
        browser.quit()
        server.shutdown()
    print("\n".join(found))
    print(
        f"{len(pages)} pages on {len(SCREENS)} screens, {asked} requests, {formulas} formulas, the figures "
        f"in {len(MOVES)} states each: {len(found)} problems; screenshots are in build/site-check"
    )
    return bool(found)
