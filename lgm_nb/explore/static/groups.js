// Groups of tokens. g, the facts: N, grid [columns, rows], places [[column, row] of each token],
// joins [[kept, absorbed]] as K shrinks from N, colours, tied, margin and size in pixels,
// treeColumns, and the trees: levels, order, branches [[block, rank, token, [[x, y]...]]].
function labelsAt(g, K) {                                     // group of each token
  const root = g.places.map((_, token) => token);
  for (const [kept, absorbed] of g.joins.slice(0, g.N - K))
    for (let i = 0; i < g.N; i++) if (root[i] === absorbed) root[i] = kept;
  const names = [...new Set(root)].sort((a, b) => a - b), number = new Map(names.map((n, i) => [n, i]));
  return root.map(name => number.get(name));
}

const keptAt = (N, K) => Array.from({length: N}, (_, token) => token < K ? token : -1);

function gridOf(g, values, outside) {                         // (column, row) -> value of the token there
  const [columns, rows] = g.grid, cells = new Array(columns * rows).fill(outside);
  g.places.forEach(([x, y], token) => { cells[y * columns + x] = values[token]; });
  return (x, y) => x < 0 || y < 0 || x >= columns || y >= rows ? outside : cells[y * columns + x];
}

function edges(g, at) {                                       // a path along cells that differ
  const [columns, rows] = g.grid;
  let path = "";
  for (let y = 0; y <= rows; y++) for (let x = 0; x <= columns; x++) {
    if (y < rows && at(x - 1, y) !== at(x, y)) path += `M${x} ${y}v1`;
    if (x < columns && at(x, y - 1) !== at(x, y)) path += `M${x} ${y}h1`;
  }
  return path;
}

function rim(g, at, group, tokens) {                          // a path around one group; at: of gridOf
  return tokens.map(token => {
    const [x, y] = g.places[token], out = (x, y, way) => at(x, y) === group ? "" : way;
    return out(x - 1, y, `M${x} ${y}v1`) + out(x + 1, y, `M${x + 1} ${y}v1`) + out(x, y - 1, `M${x} ${y}h1`) +
      out(x, y + 1, `M${x} ${y + 1}h1`);
  }).join("");
}

function membersOf(labels) {                                  // tokens of each group
  const found = [];
  labels.forEach((group, token) => (found[group] = found[group] || []).push(token));
  return found;
}

// a path that fills the cells of some tokens
const cellsOf = (g, tokens) => tokens.map(token => `M${g.places[token].join(" ")}h1v1h-1z`).join("");
const cells = (g, wanted) => cellsOf(g, g.places.map((_, token) => token).filter(wanted));

// the token near the middle of each connected piece of a group; at: (column, row) -> token
function centres(g, at, tokens) {
  if (!g.tied || tokens.length === 1) return tokens;
  const mine = new Set(tokens), found = [];
  while (mine.size) {
    const piece = [[...mine][0]];
    mine.delete(piece[0]);
    for (const token of piece) {
      const [x, y] = g.places[token];
      for (const next of [at(x - 1, y), at(x + 1, y), at(x, y - 1), at(x, y + 1)])
        if (mine.delete(next)) piece.push(next);
    }
    const mean = [0, 1].map(i => piece.reduce((sum, token) => sum + g.places[token][i], 0) / piece.length);
    const far = token => Math.hypot(g.places[token][0] - mean[0], g.places[token][1] - mean[1]);
    found.push(piece.reduce((a, b) => far(b) < far(a) - 1e-9 ? b : a));
  }
  return found;
}

function groupWords(g, labels, group) {
  const size = labels.filter(l => l === group).length, part = g.tied ? "patch" : "token";
  if (size === 1) return `one ${part}, on its own`;
  return `${size} of ${g.N} ${g.tied ? "patches" : "tokens"} share one token`;
}

function outline(g, labels, chosen) {
  const mine = labels[chosen], tokens = membersOf(labels)[mine], path = rim(g, gridOf(g, labels, -1), mine, tokens);
  return [stroke(path, "#000", 6), stroke(path, "#fff", 3)];
}

// a cell for each token that can be reached by mouse and keyboard
function pressable(g, labels, chosen) {
  return g.places.map(([x, y], token) => `<rect class="lgm-cell" x="${x}" y="${y}" width="1" height="1" ` +
    `fill="#fff" fill-opacity="0" role="button" data-token="${token}" tabindex="${token === chosen ? 0 : -1}" ` +
    `aria-pressed="${token === chosen}" aria-label="${g.tied ? "patch" : "token"} in row ${y + 1}, ` +
    `column ${x + 1}: group ${labels[token] + 1}"/>`);
}

const HOVER = "<style>.lgm-region .lgm-edge{stroke-opacity:0}.lgm-region:hover .lgm-edge{stroke-opacity:1}" +
  ".lgm-region:hover .lgm-tint{fill-opacity:.7}</style>";

// The groups at K on a picture. s: K, chosen (a token, or null), picture (an address, with its
// margin), press (whether tokens can be chosen on it), size.
function regions(g, s) {
  const labels = labelsAt(g, s.K), [columns, rows] = g.grid, size = s.size || 320, unit = size / columns;
  const members = membersOf(labels), colour = group => g.colours[members[group][0]];
  const at = gridOf(g, labels, -1), tokenAt = gridOf(g, labels.map((_, token) => token), -1);
  const shapes = members.map((tokens, group) =>
    `<g class="lgm-region" data-group="${group}"><title>group ${group + 1}: ` +
    `${groupWords(g, labels, group)}</title><path class="lgm-tint" d="${cellsOf(g, tokens)}" fill="${colour(group)}" ` +
    `fill-opacity="${g.tied ? 0.42 : 1}"/>${stroke(rim(g, at, group, tokens), "#fff", 4, 'class="lgm-edge"')}</g>`);
  const words = unit < 14 ? [] : members.map((tokens, group) =>
    centres(g, tokenAt, tokens).map(token => {
      const [x, y] = g.places[token];
      const halo = g.tied ? 'stroke="#000" stroke-width="2.5" paint-order="stroke" ' : "";
      return text((x + 0.5) * unit, (y + 0.5) * unit + 4, group + 1, {anchor: "middle",
        fill: g.tied ? "#fff" : ink(colour(group)), more: halo + 'pointer-events="none"'});
    }));
  const borders = stroke(edges(g, at), "#fff", 1.2);
  return svg(size, Math.round(unit * rows), [
    s.picture && g.tied ? inside(0, 0, size, size, s.picture) : "", HOVER,
    scaled(unit, [shapes, borders]), words,
    s.chosen === null || s.chosen === undefined ? "" : scaled(unit, outline(g, labels, s.chosen)),
    s.press ? scaled(unit, pressable(g, labels, s.chosen)) : ""],
  `${g.N} tokens in ${s.K} groups`, s.press ? 'role="group"' : "");
}

// A picture with the borders of the groups; or, with dropped set, with dropped tokens covered.
function bordered(g, s) {
  const [columns, rows] = g.grid, size = s.size || 168, unit = size / columns;
  const labels = s.dropped ? keptAt(g.N, s.K) : labelsAt(g, s.K);
  const cover = s.dropped ? `<path d="${cells(g, token => token >= s.K)}" fill="#888" fill-opacity="0.88"/>` : "";
  const fine = stroke(edges(g, gridOf(g, labels, -1)), g.tied ? "#fff" : "#888", 0.7);
  const frame = s.chosen === undefined || s.dropped ? "" : outline(g, labels, s.chosen);
  const words = s.dropped ? `${s.K} of ${g.N} tokens are kept` : `${g.N} tokens in ${s.K} groups`;
  return svg(size, Math.round(unit * rows), [s.picture && g.tied ? inside(0, 0, size, size, s.picture) : "",
    scaled(unit, [cover, fine, frame])], s.words || words);
}

// What moving one token changes, as a heat map with the group's frame. s: K, chosen, change: rows.
function owned(g, s) {
  const size = s.size || 168, high = Math.max(1e-6, ...s.change.map(row => Math.max(...row)));
  const wide = s.change[0].length + 2 * g.margin, none = new Array(g.margin).fill(0);
  const empty = none.map(() => new Array(wide).fill(0));
  const rows = [...empty, ...s.change.map(row => [...none, ...row, ...none]), ...empty];
  const frame = g.tied ? scaled(size / g.grid[0], outline(g, labelsAt(g, s.K), s.chosen)) : "";
  return svg(size, size, [inside(0, 0, size, size, heatMap(rows, 0, high, "inferno")), frame],
    `what the group of token ${s.chosen} changes at K = ${s.K}, at most ${high.toFixed(2)} of 2`);
}

// The merge tree of each block; joins below the dashed line are done. s: K, chosen, width, height.
function trees(g, s) {
  if (!g.branches.length) return svg(142, 20, [text(4, 14, "one token in each block")], "No trees: one token in each block");
  const {width = 142, height = 150} = s, labels = labelsAt(g, s.K), n = g.order.length / g.blocks;
  const low = g.levels[0], high = g.levels[g.levels.length - 2], mine = labels[s.chosen];
  const colour = group => g.colours[labels.indexOf(group)];
  const X = place => 4 + (width - 8) * place / (10 * n);
  const Y = level => 8 + (height - 28) * (high - level) / (high - low || 1);
  const cut = Y((g.levels[g.N - s.K] + g.levels[g.N - s.K + 1]) / 2), foot = Y(low) + 2;
  const blocks = Array.from({length: g.blocks}, (_, block) => {
    const branches = g.branches.filter(branch => branch[0] === block).map(([, rank, token, path]) => {
      const done = rank < g.N - s.K, group = labels[token];
      return line(path.map(([x, y]) => [X(x), Y(y)]), done ? colour(group) : "#8a8a8a",
        done ? (group === mine ? 4 : 2.2) : 1, 'class="lgm-branch"');
    });
    const leaves = g.order.slice(block * n, (block + 1) * n).map((token, i) => rect(X(10 * i + 5) - 4, foot, 8, 14,
      colour(labels[token]), "currentColor", `class="lgm-leaf${labels[token] === mine ? " lgm-mine" : ""}" ` +
      `stroke-width="${labels[token] === mine ? 2 : 0}"`));
    const row = Math.floor(block / g.treeColumns), column = block % g.treeColumns;
    return `<g transform="translate(${column * (width + 12)} ${row * (height + 6)})">${branches.join("")}` +
      `${leaves.join("")}${line([[0, cut], [width, cut]], "currentColor", 1.5, 'stroke-dasharray="6 4"')}</g>`;
  });
  return svg(g.treeColumns * (width + 12), Math.ceil(g.blocks / g.treeColumns) * (height + 6), blocks,
    `Merge trees of ${g.blocks} blocks; ${g.N - s.K} joins are done at K = ${s.K}`);
}
