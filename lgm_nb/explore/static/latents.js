// Latents at K against those at N. a, the facts of a method: name, N, lengths, span [low, high] of
// the map, full [[x, y] at N], classes (a number a picture), tables {kind: rows}, means, paper.
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#000000"];
const NAMES = {averaged: "mean of the tokens", flattened: "all numbers in a row"};

// s: K, points [[x, y]]
function map(a, s) {
  const size = s.size || 180, [low, high] = a.span;
  const place = p => p.map((v, i) => 12 + (size - 24) * (v - low[i]) / (high[i] - low[i] || 1));
  const now = s.points.map(place), full = a.full.map(place);
  return svg(size, size + 20, [text(0, 11, `${a.name}: ${now.length} images`), rect(0.5, 18.5, size - 1, size - 1, "none", "#bbb"),
    '<g transform="translate(0 18)">', `<path d="${now.map((p, i) => `M${full[i].map(px).join(" ")}L${p.map(px).join(" ")}`).join("")}" fill="none" ` +
      'stroke="#bbb" stroke-width="0.6"/>',
    now.map((p, i) => dot(...p, 2.6, COLOURS[a.classes[i] % COLOURS.length], 'stroke="#888" stroke-width="0.4"')), "</g>"],
  `${a.name}: latents of ${now.length} images at K = ${s.K}, grey lines lead to K = ${a.N}`);
}

// s: K, cosines (a number a token); g: facts of the groups
function cosines(a, g, s) {
  const [columns, rows] = g.grid, size = s.size || 180, unit = size / columns;
  const mean = s.cosines.reduce((sum, v) => sum + v, 0) / s.cosines.length;
  const words = `cosine to K = ${a.N}: mean ${mean.toFixed(2)}`;
  const squares = g.places.map(([x, y], token) => rect(x * unit, 18 + y * unit, unit, unit, hex(heat(s.cosines[token], 0, 1))));
  return svg(size, Math.round(rows * unit) + 20, [text(0, 11, words), `<g shape-rendering="crispEdges">`, squares, "</g>"],
    `${a.name}: ${words}`);
}

// some of all lengths, K among them in the place of the nearest, and the last
function shownLengths(lengths, K) {
  const last = lengths[lengths.length - 1];
  const few = lengths.filter(k => [4, 8, 12, 16, 24, 32, 48, 64].includes(k) || k === lengths[0] || k === last);
  if (!few.includes(K)) few[few.indexOf(nearest(K, few.slice(0, -1)))] = K;
  return few;
}

// CKNNA of pairs of lengths, those of K framed. s: K, kind
function pairs(a, s) {
  const few = shownLengths(a.lengths, s.K), cell = s.cell || 22, here = few.indexOf(s.K), span = few.length * cell;
  const value = (k, l) => a.tables[s.kind][a.lengths.indexOf(k)][a.lengths.indexOf(l)];
  const parts = few.flatMap((k, i) => [text(24, 56 + i * cell, k, {anchor: "end", size: 10}),
    text(28 + (i + 0.5) * cell, 38, k, {anchor: "middle", size: 10}),
    ...few.slice(0, i + 1).flatMap((l, j) => {
      const v = value(k, l), colour = hex(heat(v, 0, 1));
      return [rect(28 + j * cell, 42 + i * cell, cell - 1, cell - 1, colour),
        text(28 + (j + 0.5) * cell, 56 + i * cell, v < 0.995 ? v.toFixed(2).replace("0.", ".") : 1,
          {anchor: "middle", fill: ink(colour), size: 8.5})];
    })]);
  const frame = (x, y, w, h) => rect(x, y, w, h, "none", MARK, 'stroke-width="2.5"');
  const mean = a.means[s.kind] === null ? "one length only" : `mean of all pairs ${a.means[s.kind].toFixed(2)}`;
  const words = a.paper === null ? mean : `${mean} (paper ${a.paper.toFixed(2)})`;
  return svg(30 + span, 46 + span, [text(0, 11, `${a.name}, ${NAMES[s.kind]}`), text(0, 25, words, {size: 10}), parts,
    frame(27, 41 + here * cell, (here + 1) * cell + 1, cell + 1),
    frame(27 + here * cell, 41 + here * cell, cell + 1, span - here * cell + 1)],
  `CKNNA, ${a.name}, ${NAMES[s.kind]}: ${words}`);
}

// A token list as colours, a row a token: rows of numbers in units of their spread; mark: one row
function numbers(s) {
  const {rows, height = 230, width = 120} = s, cell = height / rows.length;
  const frame = s.mark === undefined ? "" : rect(0.5, s.mark * cell, width - 1, cell, "none", "#fff", 'stroke-width="2"');
  return svg(width, height, [inside(0, 0, width, height, heatMap(rows, -2.5, 2.5)), frame],
    `${rows.length} tokens of ${rows[0].length} numbers, dark: low, yellow: high`);
}
