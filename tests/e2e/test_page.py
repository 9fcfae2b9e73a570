"""The page in a browser, as a person has it: Debian's chromium, driven by selenium. Not run where there is none."""

import base64
import os
import shutil

import pytest
from PIL import Image

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
DRIVER = shutil.which('chromedriver')
DESKTOP, PHONE = (1280, 900), (390, 844)

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason='not run: there is no chromium with chromedriver (Debian: chromium chromium-driver)'
)


@pytest.fixture(scope='module')
def browser():
    webdriver = pytest.importorskip('selenium.webdriver', reason='not run: selenium is not installed')
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.page_load_strategy = 'normal'
    arguments = ['--headless=new', '--disable-gpu', '--disable-dev-shm-usage', '--hide-scrollbars']
    arguments += ['--proxy-server=127.0.0.1:9']  # no network: what a page asks for would fail and stand in the console
    if os.geteuid() == 0:  # chromium's sandbox refuses root
        arguments.append('--no-sandbox')
    for argument in arguments:
        options.add_argument(argument)
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(120)
    yield driver
    driver.quit()


@pytest.fixture(scope='module')
def page(shown_runs, tmp_path_factory):
    from mmext.analysis.compare import compare
    from mmext.page.html_page import page_of, write_html

    file = tmp_path_factory.mktemp('page') / 'runs & more.html'
    write_html(page_of(compare([shown_runs], curves=True)), file)
    return file


@pytest.fixture
def opened(browser, page):
    """The page, newly opened on a desktop, and all plots drawn."""
    look_at(browser, DESKTOP)
    browser.get(page.as_uri())
    draw_all(browser)
    yield browser
    assert [entry for entry in browser.get_log('browser') if entry['level'] in ('SEVERE', 'WARNING')] == []


def look_at(browser, size, scheme='light'):
    phone = size == PHONE
    metrics = {'width': size[0], 'height': size[1], 'deviceScaleFactor': 1, 'mobile': phone}
    browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', metrics)
    browser.execute_cdp_cmd('Emulation.setTouchEmulationEnabled', {'enabled': phone})
    features = [{'name': 'prefers-color-scheme', 'value': scheme}]
    browser.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': features})


def draw_all(browser):
    """Scroll to each plot, as plots are drawn when they come near the window, and back."""
    browser.execute_async_script("""
        const done = arguments[0];
        const plots = [...document.querySelectorAll('.plot')];
        const next = () => {
            const plot = plots.find((one) => !one.classList.contains('drawn'));
            if (!plot) { scrollTo(0, 0); done(); return; }
            plot.scrollIntoView({ behavior: 'instant' });
            setTimeout(next, 50);
        };
        next();
    """)


def paths_in(browser, panel):
    """The lines of a plot as they are drawn."""
    script = 'return [...document.querySelectorAll(`[data-panel="${arguments[0]}"] .scatterlayer .js-line`)].map((p) => '
    return browser.execute_script(script + "p.getAttribute('d'))", panel)


def click(browser, selector):
    browser.execute_script('document.querySelector(arguments[0]).click()', selector)


def screenshot(browser, file):
    size = browser.execute_script('return [document.documentElement.scrollWidth, document.documentElement.scrollHeight]')
    clip = {'x': 0, 'y': 0, 'width': size[0], 'height': size[1], 'scale': 1}
    shot = browser.execute_cdp_cmd('Page.captureScreenshot', {'captureBeyondViewport': True, 'clip': clip})
    file.write_bytes(base64.b64decode(shot['data']))
    return file


def test_every_plot_is_drawn(opened):
    assert 'two <b>stages' in opened.find_element('tag name', 'main').text
    plots = opened.execute_script(
        "return [...document.querySelectorAll('.plot')].map((p) => p.querySelectorAll('.scatterlayer .trace').length)"
    )
    assert len(plots) > 12
    assert min(plots) >= 1


def test_a_run_is_switched_off_in_all_plots_and_back(opened):
    total, shares = paths_in(opened, 'loss-total'), paths_in(opened, 'share-3')
    click(opened, '[data-toggle="3"]')
    assert len(paths_in(opened, 'loss-total')) < len(total)
    assert opened.execute_script('return document.querySelector(\'figure[data-run="3"]\').checkVisibility()') is False
    assert opened.find_element('css selector', '[data-toggle="3"]').get_attribute('aria-pressed') == 'false'
    opened.find_element('tag name', 'body').send_keys('4')  # the key of the fourth run
    assert paths_in(opened, 'loss-total') == total
    assert paths_in(opened, 'share-3') == shares


def test_smoothing_moves_the_training_and_not_the_validation(opened):
    def values(kind):
        return opened.execute_script(
            "return document.querySelector('[data-panel=loss-mask]').data.filter((t) => t.meta.run === 3 && ("
            "arguments[0] === 'val' ? t.mode === 'lines+markers' : t.meta.source)).map((t) => t.y)",
            kind,
        )

    train, val, lines = values('train'), values('val'), paths_in(opened, 'loss-mask')
    opened.execute_script(
        "const s = document.querySelector('#smoothing'); s.value = 0.8; s.dispatchEvent(new Event('input'))"
    )
    assert opened.find_element('id', 'smoothing-value').text == '0.80'
    assert paths_in(opened, 'loss-mask') != lines
    (smooth,), (rough,) = values('train'), train
    assert smooth[0] == pytest.approx(rough[0])  # not drawn towards zero
    mean, weight = 0.8 * 0.2 * rough[0] + 0.2 * rough[1], 0.8 * 0.2 + 0.2
    assert smooth[1] == pytest.approx(mean / weight)
    assert values('val') == val


def test_zoom_is_one_for_all_plots_by_key_and_button(opened):
    def ranges():
        script = "return [...document.querySelectorAll('.plot')].map((p) => p.layout.xaxis.range.map((x) => Math.round(x)))"
        return {tuple(one) for one in opened.execute_script(script)}

    assert ranges() == {(0, 102)}
    click(opened, '#zoom-in')
    assert ranges() == {(26, 77)}
    opened.find_element('tag name', 'body').send_keys('.')
    assert len(ranges()) == 1
    assert ranges() != {(26, 77)}
    opened.find_element('tag name', 'body').send_keys('r')
    assert ranges() == {(0, 102)}


def test_all_controls_are_reached_with_the_keyboard(opened):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    wanted = set(
        opened.execute_script(
            "return [...document.querySelectorAll('button:not(:disabled), input, summary')]"
            '.filter((e) => e.checkVisibility())'
            '.map((e, i) => { e.dataset.place = i; return String(i); })'
        )
    )
    reached = set()
    for _ in range(200):
        ActionChains(opened).send_keys(Keys.TAB).perform()
        reached.add(opened.execute_script('return document.activeElement.dataset.place'))
        if wanted <= reached:
            break
    assert wanted <= reached


def test_an_image_is_enlarged_and_closed(opened):
    click(opened, '[data-enlarge]')
    assert opened.execute_script("return document.querySelector('#enlarged').open")
    assert opened.execute_script("return document.querySelectorAll('#enlarged svg path').length") > 0
    from selenium.webdriver.common.keys import Keys

    opened.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not opened.execute_script("return document.querySelector('#enlarged').open")


@pytest.mark.parametrize(
    ('name', 'size', 'scheme'), [('desktop', DESKTOP, 'light'), ('phone', PHONE, 'light'), ('dark', DESKTOP, 'dark')]
)
def test_it_fits_the_screen(opened, page, tmp_path, name, size, scheme):
    look_at(opened, size, scheme)
    opened.get(page.as_uri())
    draw_all(opened)
    assert opened.execute_script('return document.documentElement.scrollWidth') <= size[0]
    outside = opened.execute_script(
        "return [...document.querySelectorAll('.plot .main-svg, h1, h2, h3, .card, button')]"
        ".filter((e) => !e.closest('.wide, .chips') && e.getBoundingClientRect().right > innerWidth + 1)"
        '.map((e) => e.outerHTML.slice(0, 80))'
    )
    assert outside == []
    with Image.open(screenshot(opened, tmp_path / f'{name}.png')) as picture:
        assert picture.width == size[0]
        corner = picture.convert('L').getpixel((2, 2))
        assert corner < 60 if scheme == 'dark' else corner > 200


def test_dark_by_button(opened):
    def colours():
        return opened.execute_script(
            "const colour = document.querySelector('.plot').layout.font.color;"
            'return [getComputedStyle(document.body).backgroundColor, colour]'
        )

    light = colours()
    click(opened, '#theme')
    assert all(one != other for one, other in zip(light, colours(), strict=True))
    click(opened, '#theme')
    assert colours() == light


def test_on_paper_the_plots_have_its_width(opened, tmp_path):
    printed = opened.execute_cdp_cmd('Page.printToPDF', {'printBackground': True, 'preferCSSPageSize': True})
    data = base64.b64decode(printed['data'])
    assert data.startswith(b'%PDF')
    (tmp_path / 'print.pdf').write_bytes(data)
    opened.execute_script("dispatchEvent(new Event('beforeprint'))")
    widths = opened.execute_script(
        "return [...document.querySelectorAll('.plot')].filter((p) => p.checkVisibility())"
        ".map((p) => [p.querySelector('.main-svg').getBoundingClientRect().width, p.clientWidth])"
    )
    opened.execute_script("dispatchEvent(new Event('afterprint'))")
    assert all(abs(drawn - room) <= 1 < 400 and drawn < 400 for drawn, room in widths)


def test_a_diagnosis_on_a_phone_and_its_remedy_to_copy(browser, shown_runs, tmp_path):
    from mmext.analysis.diagnose import diagnose
    from mmext.page.html_page import page_of_run, write_html

    write_html(page_of_run(shown_runs / 'stock', diagnose(shown_runs / 'stock')), tmp_path / 'one.html')
    look_at(browser, PHONE)
    browser.get((tmp_path / 'one.html').as_uri())
    draw_all(browser)
    assert browser.execute_script('return document.documentElement.scrollWidth') <= PHONE[0]
    click(browser, '[data-copy]')
    browser.execute_async_script('setTimeout(arguments[0], 300)')
    assert browser.find_element('css selector', '[data-copy]').text != 'Copy'
    assert [entry for entry in browser.get_log('browser') if entry['level'] in ('SEVERE', 'WARNING')] == []
