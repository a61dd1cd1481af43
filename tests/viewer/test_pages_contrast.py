"""Contrast that axe cannot measure: text on shaded tokens and on the dots of spaces, at every strength."""

import pytest
from pages_browser import Browser, visiting
from pages_server import PagesServer

pytestmark = pytest.mark.browser

# Draws each colour on a canvas over what lies behind it, so that the browser itself does the mixing.
MEASURE = """() => {
  const pen = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const over = (colours) => {
    pen.clearRect(0, 0, 1, 1);
    for (const colour of colours) { pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1); }
    return pen.getImageData(0, 0, 1, 1).data;
  };
  const luminance = (rgb) => [...rgb].slice(0, 3)
    .map(each => each / 255).map(each => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4)
    .reduce((sum, each, i) => sum + each * [0.2126, 0.7152, 0.0722][i], 0);
  const page = getComputedStyle(document.documentElement).backgroundColor;
  const contrast = (front, behind) => {
    const [a, b] = [luminance(over([...behind, front])), luminance(over(behind))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  };
  const found = [];
  const mark = document.querySelector('mark.t');
  for (let strength = 0; strength <= 10; strength += 1) {
    mark.style.setProperty('--a', strength / 10);
    const shade = getComputedStyle(mark).backgroundColor;
    const inside = [mark, ...mark.querySelectorAll('*')];
    for (const each of inside) found.push(contrast(getComputedStyle(each).color, [page, shade]));
  }
  for (const each of document.querySelectorAll('.context .unprinted, .source, .soft, .status, .none')) {
    if (!each.closest('mark')) found.push(contrast(getComputedStyle(each).color, [page]));
  }
  return found;
}"""
DEAD = "#/latent/7"
ADD_A_MARK = """() => {
  const mark = Object.assign(document.createElement('mark'), { className: 't' });
  document.querySelector('main').append(mark);
}"""
BOUNDARIES = """() => {
  const style = getComputedStyle(document.querySelector('#jump-to'));
  return [style.borderTopColor, getComputedStyle(document.documentElement).backgroundColor];
}"""


def luminance(colour: str) -> float:
    channels = [int(each) / 255 for each in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels]
    return sum(weight * each for weight, each in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("address", ["#/latent/75", "#/latent/3", DEAD])
def test_text_on_every_shade_has_the_contrast_of_aa(
    browser: Browser, site: PagesServer, dark: bool, address: str
) -> None:
    with visiting(browser, site, dark=dark) as visit:
        page = visit.go(address)
        if address == DEAD:
            page.evaluate(ADD_A_MARK)
        ratios = page.evaluate(MEASURE)
    assert len(ratios) > 10
    assert min(ratios) >= 4.5


@pytest.mark.parametrize("dark", [False, True])
def test_borders_of_fields_can_be_seen(browser: Browser, site: PagesServer, dark: bool) -> None:
    with visiting(browser, site, dark=dark) as visit:
        a, b = sorted(map(luminance, visit.go("#/").evaluate(BOUNDARIES)))
    assert (b + 0.05) / (a + 0.05) >= 3
