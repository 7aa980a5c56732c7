"""The page in a headless Chromium: what a move, a fixed pixel, an image and a key do. Skipped where there is none."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cases.browser import BINARY, Browser
from cases.commands import SIZE, small_images

from vlae_fast import VLAE, checkpoint, data
from vlae_fast.explore import Explorer, Server

if os.environ.get("VLAE_FAST_REQUIRE_BROWSER") != "1":
    pytestmark = pytest.mark.skipif(BINARY is None, reason="no chromium here: apt-get install chromium")

STATE = """(() => { const { width, height } = document.getElementById("image");
    return document.getElementById("image").getContext("2d").getImageData(0, 0, width, height).data.join(); })()"""


def pixel(x: int, y: int) -> str:
    """Red of a pixel of the shipped model's image, near its corner: a mark of fixed pixels is in the middle."""
    return f'document.getElementById("image").getContext("2d").getImageData({20 * x + 2}, {20 * y + 2}, 1, 1).data[0]'


@pytest.fixture(scope="module")
def opened(serve: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Browser]]:
    """Opens the page of an explorer in a browser of its own."""
    browsers = []

    def open_page(explorer: Explorer, *address: Any) -> Browser:
        url = serve(explorer, *address).url.replace("http://0.0.0.0", "http://127.0.0.1")
        browsers.append(Browser(tmp_path_factory.mktemp("profile"), url))
        browsers[-1].wait("+document.getElementById('image')?.dataset.draws >= 1")
        return browsers[-1]

    yield open_page
    for browser in browsers:
        browser.__exit__()


@pytest.fixture(scope="module")
def page(opened: Callable[..., Browser]) -> Browser:
    found = checkpoint.load(checkpoint.MNIST)
    return opened(Explorer(found.model, data.load("digits"), name="the shipped model", statistics=200))


@pytest.fixture(autouse=True)
def _nothing_went_wrong(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "page" in request.fixturenames:
        browser = request.getfixturevalue("page")
        assert browser.wrong == [] and browser.run("document.getElementById('error').hidden")


def drawn_again(page: Browser, done: Callable[[], object]) -> None:
    """Does something and waits until the image that it asks for is there."""
    before = page.run("+document.getElementById('image').dataset.draws")
    done()
    page.wait(f"+document.getElementById('image').dataset.draws > {before}")
    page.run("new Promise((done) => setTimeout(done, 100))")


def click_at(page: Browser, canvas: str, x: float, y: float) -> None:
    """Clicks on a square canvas, x and y from 0 to 1."""
    box = f"document.getElementById('{canvas}').getBoundingClientRect()"
    left, top, side = page.run(f"(({{ left, top, width }}) => [left, top, width])({box})")
    page.click(left + x * side, top + y * side)


def click_pixel(page: Browser, x: int, y: int) -> None:
    click_at(page, "image", (x + 0.5) / 28, (y + 0.5) / 28)


def test_the_sliders_are_sorted_and_labelled(page: Browser) -> None:
    labels = page.run("[...document.querySelectorAll('#carrying input')].map((i) => i.ariaLabel)")
    bits = [float(label.split(", ")[1].removesuffix(" bits")) for label in labels]
    assert len(bits) > 5 and bits == sorted(bits, reverse=True) and bits[-1] >= 0.05
    assert page.run("document.querySelectorAll('.dims input').length") == 32


def test_a_slider_moved_by_a_key_changes_the_picture(page: Browser) -> None:
    before = page.run(STATE)
    page.run("document.querySelector('#carrying input').focus()")
    drawn_again(page, lambda: page.press("End"))
    assert page.run("document.querySelector('#carrying input').value == document.querySelector('#carrying input').max")
    assert page.run(STATE) != before
    time = page.run("document.getElementById('time').textContent")
    assert float(time.split()[2]) > 0 and time.split()[3] == "ms"


def test_kept_noise_and_an_old_code_give_the_old_picture(page: Browser) -> None:
    drawn_again(page, lambda: page.run("document.getElementById('centre').click()"))
    before = page.run(STATE)
    page.run("document.querySelector('#carrying input').focus()")
    drawn_again(page, lambda: page.press("End"))
    drawn_again(page, lambda: page.run("document.getElementById('centre').click()"))
    assert page.run(STATE) == before
    drawn_again(page, lambda: page.run("document.getElementById('new-noise').click()"))
    assert page.run(STATE) != before


def test_a_fixed_pixel_stays(page: Browser) -> None:
    page.resize(1280, 900)
    page.run("document.querySelector('input[value=light]').click()")
    drawn_again(page, lambda: click_pixel(page, 1, 1))
    drawn_again(page, lambda: click_pixel(page, 26, 2))
    page.run("document.querySelector('input[value=dark]').click()")
    drawn_again(page, lambda: click_pixel(page, 14, 14))
    for _ in range(3):
        drawn_again(page, lambda: page.run("document.getElementById('new-noise').click()"))
        drawn_again(page, lambda: page.run("document.getElementById('from-prior').click()"))
        assert [page.run(pixel(x, y)) for x, y in ((1, 1), (26, 2), (14, 14))] == [255, 255, 0]
    assert page.run("document.getElementById('fixed-about').textContent").startswith("3 fixed.")
    drawn_again(page, lambda: page.run("document.getElementById('free').click()"))
    assert page.run("document.getElementById('fixed-about').textContent") == ""


def test_a_pixel_is_fixed_by_keys(page: Browser) -> None:
    page.run("document.querySelector('input[value=light]').click(); document.getElementById('image').focus()")
    page.press("ArrowLeft", 27)
    page.press("ArrowUp", 27)
    page.press("ArrowRight", 5)
    page.press("ArrowDown", 3)
    drawn_again(page, lambda: page.press("Space"))
    assert page.run("document.getElementById('place').textContent") == "row 4, column 6: fixed"
    page.run("document.getElementById('complete').click()")
    page.wait("document.getElementById('time').textContent.startsWith('completed in')")
    page.run("document.activeElement.blur()")
    assert page.run(pixel(5, 3)) == 255
    drawn_again(page, lambda: page.run("document.getElementById('free').click()"))


def test_an_image_of_the_data_set_is_encoded(page: Browser) -> None:
    values = "[...document.querySelectorAll('.dims input')].map((i) => i.value).join()"
    before = page.run(values)
    drawn_again(page, lambda: page.run("document.querySelector('#choices button').click()"))
    assert page.run(values) != before
    assert page.run("document.getElementById('original-about').textContent").startswith("digits test ")
    shown = page.run("[...document.querySelectorAll('#choices button')].map((b) => b.title).join()")
    page.run("document.getElementById('more').click()")
    page.wait(f"[...document.querySelectorAll('#choices button')].map((b) => b.title).join() != {shown!r}")


def test_a_file_is_encoded(page: Browser) -> None:
    """A picture of 56 x 28, dark but for a light square in its middle, which is what is kept."""
    code = """(async () => {
      const canvas = new OffscreenCanvas(56, 28), context = canvas.getContext("2d");
      context.fillRect(0, 0, 56, 28); context.fillStyle = "white"; context.fillRect(18, 4, 20, 20);
      const files = new DataTransfer();
      files.items.add(new File([await canvas.convertToBlob()], "mine.png", { type: "image/png" }));
      document.getElementById("file").files = files.files;
      document.getElementById("file").dispatchEvent(new Event("change"));
    })()"""
    drawn_again(page, lambda: page.run(code))
    assert page.run("document.getElementById('original-about').textContent") == "mine.png"
    at = "document.getElementById('original-image').getContext('2d').getImageData({}, {}, 1, 1).data[0]"
    assert [page.run(at.format(x, y)) for x, y in ((14, 14), (5, 5), (1, 1), (26, 26))] == [255, 255, 0, 0]


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 900)])
def test_nothing_is_wider_than_the_screen(page: Browser, width: int, height: int) -> None:
    page.resize(width, height)
    assert page.run("document.documentElement.scrollWidth") == width
    boxes = (
        "[...document.querySelectorAll('button, input, select, summary')].filter((e) => e.offsetParent)"
        ".map((e) => e.getBoundingClientRect())"
    )
    assert page.run(f"{boxes}.filter((b) => b.left < 0 || b.right > innerWidth).length") == 0
    assert page.run(f"{boxes}.length") > 30


def test_every_control_has_a_name_and_dark_is_dark(page: Browser) -> None:
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "slider", "checkbox", "radio", "combobox", "textbox", "ColorWell", "application")
    unnamed = [n for n in nodes if n.get("role", {}).get("value") in roles and not n.get("name", {}).get("value")]
    assert len([n for n in nodes if n.get("role", {}).get("value") == "slider"]) > 5 and unnamed == []
    back = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    page.resize(1280, 900, dark=True)
    assert max(page.run(back)) < 64
    page.resize(1280, 900)
    assert min(page.run(back)) > 192


def test_a_plane_colours_and_a_token(opened: Callable[..., Browser]) -> None:
    torch.manual_seed(0)
    model = VLAE(1, 2, 4, 1, image_size=SIZE, flow_hidden=4, likelihood="categorical", levels=256)
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter *= 3  # codes that differ
    browser = opened(Explorer(model, small_images(binarization="none")), "127.0.0.1", 0, "secret")
    browser.resize(1280, 900)
    browser.wait("document.getElementById('plane-image').width > 400")
    browser.run("document.getElementById('plane-image').scrollIntoView()")
    found = []
    for x, y in ((0.1, 0.1), (0.9, 0.9)):
        drawn_again(browser, lambda x=x, y=y: click_at(browser, "plane-image", x, y))
        found.append([float(browser.run(f"document.getElementById('z{d}').value")) for d in range(2)])
    assert found[0][0] < found[1][0] and found[0][1] > found[1][1]
    assert not browser.run("document.getElementById('colour-brush').hidden")
    assert browser.wrong == []
    wrong = opened_without_token(browser)
    assert wrong == "token: must be that of the address that was printed"


def opened_without_token(browser: Browser) -> str:
    """What the page says when it is opened without the part behind the #."""
    address = browser.run("location.origin")
    browser.call("Page.navigate", url="about:blank")
    browser.call("Page.navigate", url=address)
    text = browser.wait("document.getElementById('error')?.textContent")
    assert isinstance(text, str)
    return text
