'use strict';
(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const root = document.documentElement;
  const all = (selector) => [...document.querySelectorAll(selector)];
  const one = (selector) => document.querySelector(selector);
  const escaped = (text) => text.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;');

  const shown = data.runs.map(() => true);
  const drawn = new Map(); // plot element -> its panel
  const panels = new Map(data.sections.flatMap((section) => section.panels).map((panel) => [panel.key, panel]));
  let smoothing = 0;
  let logLosses = false;
  const whole = [0, data.last * 1.02]; // of all x axes: what one run has not reached yet stays empty
  let range = null; // null: the whole
  let printing = false;

  // ---- what a panel looks like

  function palette() {
    const style = getComputedStyle(root);
    const of = (name) => style.getPropertyValue(name).trim();
    return { ink: of('--ink'), soft: of('--soft'), grid: of('--grid'), paper: of('--paper') };
  }

  function colourOf(panel, line) {
    const place = panel.run === null ? line.run : line.colour;
    return data.palette[place % data.palette.length];
  }

  function dashOf(panel, line) {
    const place = panel.run === null ? Math.floor(line.run / data.palette.length) : line.colour;
    return data.dashes[place % data.dashes.length];
  }

  // exponential moving average without the pull towards zero at its beginning; gaps stay gaps
  function smoothed(values) {
    let mean = 0;
    let weight = 0;
    return values.map((value) => {
      if (value === null) return null;
      mean = smoothing * mean + (1 - smoothing) * value;
      weight = smoothing * weight + (1 - smoothing);
      return mean / weight;
    });
  }

  const smooths = (panel, line) => panel.smooth && line.kind === 'train';

  function tracesOf(panel) {
    const traces = [];
    for (const line of panel.lines) {
      const colour = colourOf(panel, line);
      const name = escaped(panel.run === null ? data.runs[line.run] : line.words);
      const base = { x: line.x, y: line.y, name, visible: shown[line.run], meta: { run: line.run } };
      base.hovertemplate = `%{y:${panel.scale === 'share' ? '.1%' : '.4~g'}}${line.kind === 'val' && panel.smooth ? ' (validation)' : ''}`;
      if (panel.stacked) {
        traces.push({ ...base, mode: 'lines', stackgroup: 'all', fillcolor: colour, line: { width: 0.5, color: colour } });
        continue;
      }
      const stroke = { color: colour, width: 2, dash: dashOf(panel, line) };
      if (smooths(panel, line)) {
        // the line as it is stays behind the smoothed one
        traces.push({
          ...base, y: smoothing ? line.y : [], mode: 'lines', line: { ...stroke, width: 1 }, opacity: 0.3,
          hoverinfo: 'skip', hovertemplate: null, meta: { run: line.run, raw: line.y },
        });
        traces.push({ ...base, y: smoothed(line.y), mode: line.x.length > 1 ? 'lines' : 'markers', line: stroke, marker: { color: colour }, meta: { run: line.run, source: line.y } });
      } else if (line.kind === 'val') {
        const symbol = data.symbols[line.run % data.symbols.length];
        const thin = panel.smooth ? { ...stroke, width: 1, dash: 'dot' } : stroke;
        traces.push({ ...base, mode: 'lines+markers', line: thin, marker: { color: colour, size: 6, symbol } });
      } else {
        traces.push({ ...base, mode: line.x.length > 1 ? 'lines' : 'markers', line: stroke });
      }
      if (line.broken.length) {
        traces.push({
          x: line.broken, y: line.broken.map(() => (logLosses ? line.floor : 0)), name, visible: shown[line.run], mode: 'markers', meta: { run: line.run },
          marker: { color: colour, size: 9, symbol: 'x-thin', line: { color: colour, width: 2 } },
          hovertemplate: 'no number (NaN or infinite)', cliponaxis: false,
        });
      }
    }
    return traces;
  }

  function axesOf(panel, colours) {
    const axis = { gridcolor: colours.grid, linecolor: colours.grid, zerolinecolor: colours.grid, color: colours.soft, tickfont: { size: 11 } };
    const x = { ...axis, title: { text: 'iteration', font: { size: 11 }, standoff: 6 }, showgrid: false, ticks: 'outside', ticklen: 3, nticks: 6, exponentformat: 'none', separatethousands: true };
    const y = { ...axis, automargin: true, nticks: 6, title: { text: panel.unit, font: { size: 11 }, standoff: 8 } };
    x.range = range || whole;
    if (panel.scale === 'share') Object.assign(y, { tickformat: '.0%', range: [0, 1] });
    else if (panel.scale === 'log') Object.assign(y, { type: 'log', tickvals: panel.ticks.map(([at]) => at), ticktext: panel.ticks.map(([, text]) => text), fixedrange: true });
    else if (panel.smooth && logLosses) Object.assign(y, { type: 'log', exponentformat: 'e' });
    else Object.assign(y, { type: 'linear', rangemode: 'tozero' });
    return { xaxis: x, yaxis: y };
  }

  // all values at an iteration while they fit beside the pointer
  const hoverOf = (panel) => (panel.lines.filter((line) => shown[line.run]).length > 12 ? 'closest' : 'x unified');

  function layoutOf(panel) {
    const colours = palette();
    const shapes = panel.marks.map(([x]) => ({ type: 'line', x0: x, x1: x, yref: 'paper', y0: 0, y1: 1, line: { color: colours.ink, width: 1, dash: 'dash' } }));
    const annotations = panel.marks.map(([x, text]) => ({ x, y: 1, yref: 'paper', yanchor: 'bottom', text: escaped(text), showarrow: false, font: { size: 10, color: colours.soft } }));
    if (panel.band) {
      const [y0, y1] = panel.band;
      shapes.push(...[y0, y1].map((y) => ({ type: 'line', xref: 'paper', x0: 0, x1: 1, y0: y, y1: y, line: { color: colours.ink, width: 1.5, dash: 'dot' } })));
      shapes.push({ type: 'rect', xref: 'paper', x0: 0, x1: 1, y0, y1, line: { width: 0 }, fillcolor: colours.paper, opacity: 0.28 });
    }
    const touch = matchMedia('(pointer: coarse)').matches; // a finger scrolls; the buttons zoom
    return {
      ...axesOf(panel, colours), shapes, annotations,
      margin: { l: 52, r: 10, t: panel.marks.length ? 18 : 8, b: 38 },
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colours.ink },
      paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)',
      showlegend: false, hovermode: hoverOf(panel), hoverdistance: 30,
      dragmode: touch ? false : 'zoom',
      hoverlabel: { bgcolor: colours.paper, bordercolor: colours.grid, font: { color: colours.ink, size: 12 }, namelength: 28 },
    };
  }

  // ---- drawing: when a plot comes near the window, since twenty runs have fifty of them

  function draw(plot) {
    if (drawn.has(plot)) return;
    const panel = panels.get(plot.dataset.panel);
    drawn.set(plot, panel);
    Plotly.newPlot(plot, tracesOf(panel), layoutOf(panel), { displayModeBar: false, responsive: true, doubleClick: 'reset' });
    plot.on('plotly_relayout', (change) => {
      if (!('xaxis.range[0]' in change)) return;
      const next = [change['xaxis.range[0]'], change['xaxis.range[1]']];
      zoomTo(next[0] === whole[0] && next[1] === whole[1] ? null : next, plot);
    });
    plot.classList.add('drawn');
  }

  function redraw(plot) {
    const panel = drawn.get(plot);
    Plotly.react(plot, tracesOf(panel), { ...layoutOf(panel), ...(printing ? { width: plot.clientWidth, height: plot.clientHeight } : {}) });
  }

  const redrawAll = () => drawn.forEach((_, plot) => redraw(plot));

  // ---- one window of iterations for all plots

  function zoomTo(next, from = null) {
    if (JSON.stringify(next) === JSON.stringify(range)) return;
    range = next;
    drawn.forEach((_, plot) => {
      if (plot !== from) Plotly.relayout(plot, next ? { 'xaxis.range': next } : { 'xaxis.range': whole, ...(drawn.get(plot).stacked ? {} : { 'yaxis.autorange': true }) });
    });
    one('#reset').disabled = next === null;
  }

  function zoomBy(factor, shift = 0) {
    const [low, high] = range || whole;
    const half = ((high - low) / 2) * factor;
    const middle = (low + high) / 2 + shift * (high - low);
    const next = [Math.max(0, middle - half), Math.min(whole[1], middle + half)];
    if (next[1] - next[0] < 1) return;
    zoomTo(next[0] <= 0 && next[1] >= whole[1] ? null : next);
  }

  // ---- controls

  function showRun(place, on) {
    shown[place] = on;
    one(`[data-toggle="${place}"]`).setAttribute('aria-pressed', on);
    all(`[data-run="${place}"]`).forEach((element) => element.classList.toggle('off', !on));
    drawn.forEach((panel, plot) => {
      const places = plot.data.flatMap((trace, i) => (trace.meta.run === place ? [i] : []));
      if (places.length) Plotly.update(plot, { visible: on }, { hovermode: hoverOf(panel) }, places);
    });
  }

  const showAll = () => shown.forEach((on, place) => on || showRun(place, true));

  function smooth(value) {
    smoothing = value;
    one('#smoothing').value = value;
    one('#smoothing-value').textContent = value.toFixed(2);
    drawn.forEach((panel, plot) => {
      if (!panel.smooth) return;
      const lines = plot.data.flatMap((trace, i) => (trace.meta.source ? [i] : []));
      const raw = plot.data.flatMap((trace, i) => (trace.meta.raw ? [i] : []));
      if (!lines.length) return;
      Plotly.restyle(plot, { y: lines.map((i) => smoothed(plot.data[i].meta.source)) }, lines);
      Plotly.restyle(plot, { y: raw.map((i) => (value ? plot.data[i].meta.raw : [])) }, raw);
    });
  }

  function logAxis(on) {
    logLosses = on;
    one('#log').checked = on;
    drawn.forEach((panel, plot) => panel.smooth && redraw(plot));
  }

  const dark = () => (root.dataset.theme || (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light')) === 'dark';

  function theme(next) {
    root.dataset.theme = next;
    one('#theme').setAttribute('aria-pressed', next === 'dark');
    redrawAll();
  }

  async function copy(button) {
    const text = document.getElementById(button.dataset.copy).textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = 'Copied';
    } catch {
      // a browser may refuse a page from disk: select the lines for the person's own key
      getSelection().selectAllChildren(document.getElementById(button.dataset.copy));
      button.textContent = 'Selected: press Ctrl+C';
    }
    setTimeout(() => { button.textContent = 'Copy'; }, 2500);
  }

  const keys = {
    a: showAll,
    s: () => smooth(Math.min(0.95, Math.round((smoothing + 0.1) * 100) / 100)),
    S: () => smooth(Math.max(0, Math.round((smoothing - 0.1) * 100) / 100)),
    l: () => one('#log') && logAxis(!logLosses),
    '+': () => zoomBy(0.5),
    '-': () => zoomBy(2),
    ',': () => zoomBy(1, -0.25),
    '.': () => zoomBy(1, 0.25),
    r: () => zoomTo(null),
    d: () => theme(dark() ? 'light' : 'dark'),
    '?': () => { const help = one('#help'); help.open = !help.open; if (help.open) help.querySelector('summary').focus(); },
  };
  for (let i = 0; i < 9; i += 1) keys[i + 1] = () => i < shown.length && showRun(i, !shown[i]);

  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches('input[type=text], textarea')) return;
    if (keys[event.key]) {
      event.preventDefault();
      keys[event.key]();
    }
  });
  all('[data-toggle]').forEach((button) => button.addEventListener('click', () => {
    const place = Number(button.dataset.toggle);
    showRun(place, !shown[place]);
  }));
  all('[data-copy]').forEach((button) => button.addEventListener('click', () => copy(button)));
  all('[data-enlarge]').forEach((button) => button.addEventListener('click', () => {
    const dialog = one('#enlarged');
    dialog.querySelector('div').replaceChildren(button.querySelector('svg').cloneNode(true));
    dialog.querySelector('p').textContent = button.dataset.enlarge;
    dialog.showModal();
  }));
  if (one('#enlarged')) one('#enlarged').addEventListener('click', () => one('#enlarged').close());
  const on = (selector, event, act) => one(selector) && one(selector).addEventListener(event, act);
  on('#all', 'click', showAll);
  on('#smoothing', 'input', (event) => smooth(Number(event.target.value)));
  on('#log', 'change', (event) => logAxis(event.target.checked));
  on('#zoom-in', 'click', () => zoomBy(0.5));
  on('#zoom-out', 'click', () => zoomBy(2));
  on('#reset', 'click', () => zoomTo(null));
  on('#theme', 'click', () => theme(dark() ? 'light' : 'dark'));
  one('#theme').setAttribute('aria-pressed', dark());
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => root.dataset.theme || redrawAll());

  // ---- paper has another width, and is white

  function beforePrint() {
    printing = true;
    root.classList.add('printing');
    all('.plot').forEach(draw);
    redrawAll();
  }

  function afterPrint() {
    printing = false;
    root.classList.remove('printing');
    all('.plot').forEach((plot) => Plotly.relayout(plot, { autosize: true, width: null, height: null }));
    redrawAll();
  }

  addEventListener('beforeprint', beforePrint);
  addEventListener('afterprint', afterPrint);

  const near = new IntersectionObserver((entries) => entries.forEach((entry) => {
    if (!entry.isIntersecting) return;
    near.unobserve(entry.target);
    draw(entry.target);
  }), { rootMargin: '600px' });
  all('.plot').forEach((plot) => near.observe(plot));
})();
