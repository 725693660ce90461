const [columns, rows] = D.grid, part = D.tied ? "patch" : "token", at = {};
D.places.forEach((place, token) => { at[place] = token; });

// a cell for each token, lines between groups, and the outline of the chosen group
function overlay(box, kind) {
  const svg = shape("svg", box, {viewBox: `0 0 ${columns} ${rows}`, class: kind});
  const cells = D.places.map(([x, y], token) => {
    const cell = shape("rect", svg, {x, y, width: 1, height: 1, "data-token": token});
    cell.onpointerenter = cell.onclick = () => choose(token);
    return cell;
  });
  const path = name => shape("path", svg, {class: name});
  return {svg, cells, borders: path("borders"), halo: path("halo"), outline: path("outline")};
}

function sides(differ) {                                   // a path along cells that differ
  let path = "";
  for (let y = 0; y <= rows; y++) for (let x = 0; x <= columns; x++) {
    const here = at[[x, y]];
    if (differ(at[[x - 1, y]], here)) path += `M${x} ${y}v1`;
    if (differ(at[[x, y - 1]], here)) path += `M${x} ${y}h1`;
  }
  return path;
}

function picture(words, kind) {                            // a picture with the groups' borders on it
  const box = make("div", $("pairs"), {class: "pair"}), title = make("h3", box, {}, words);
  const patches = make("div", box, {class: "patches"}), canvas = make("canvas", patches);
  return {title, canvas, over: D.tied ? overlay(patches, kind) : null};
}

$("howgroups").textContent = (D.tied ?
  `The picture is cut into ${D.N} patches; each has one token. The patches of a group share a token: ` +
  `the average of theirs. Groups side by side differ in colour, groups far apart may have the same. ` :
  `Each cell is one of the ${D.N} tokens; cells with one number are averaged into one. `) +
  `Tokens merge only inside their ${D.tied ? "part of the picture" : "row"}. ` +
  `Hover over a ${part}, tap it, or use the arrow keys: its group is outlined and named.`;
$("treewords").textContent = D.tied && D.treeColumns ** 2 === D.G ?
  `One tree for each quarter of the picture, in its place.` : `One tree for each of ${D.G} blocks of tokens.`;
$("trees").style.setProperty("--columns", D.treeColumns);

const thumbs = choices($("images"), D.images.map(() => ""), "image", "picture");
const thumbCanvases = thumbs.map(button => make("canvas", button));
const plain = D.tied ? make("canvas", $("regions")) : null;
const regions = overlay($("regions"), D.tied ? "regions" : "regions bare");
const numbers = D.tied ? [] : D.places.map(([x, y]) => shape("text", regions.svg, {x: x + 0.5, y: y + 0.65}));
const again = picture("", "plain");
const cut = D.methods.includes("truncation") ? picture("", "plain kept") : null;

attributes(regions.svg, {role: "group", "aria-label": "Groups of tokens; arrow keys move"});
regions.cells.forEach((cell, token) => {
  attributes(cell, {role: "button"});
  cell.onkeydown = event => {
    const step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
    if (!step) return;
    event.preventDefault();
    const [x, y] = D.places[token], next = at[[x + step[0], y + step[1]]];
    if (next !== undefined) { choose(next); regions.cells[next].focus(); }
  };
});

function choose(token) { state.token = token; drawGroups(D.lengths.indexOf(state.K)); }

function drawOverlay(over, labels, mine) {
  const outline = sides((a, b) => (labels[a] === mine) !== (labels[b] === mine));
  over.borders.setAttribute("d", sides((a, b) => labels[a] !== labels[b]));
  over.halo.setAttribute("d", outline);
  over.outline.setAttribute("d", outline);
}

function drawTrees(row, labels, colour, mine) {
  const done = D.N - state.K;
  for (const branch of document.querySelectorAll(".branch")) {
    const merged = +branch.dataset.rank < done, group = labels[branch.dataset.token];
    branch.setAttribute("stroke", merged ? colour(group) : "#8a8a8a");
    branch.setAttribute("stroke-width", merged ? (group === mine ? 4 : 2.5) : 1);
  }
  for (const leaf of document.querySelectorAll(".leaf")) {
    const group = labels[leaf.dataset.token];
    leaf.setAttribute("fill", colour(group));
    leaf.classList.toggle("mine", group === mine);
  }
  for (const line of document.querySelectorAll(".cut"))
    line.setAttribute("transform", `translate(0 ${D.cuts[row]})`);
}

function drawGroups(row) {
  const labels = D.labels[row], mine = labels[state.token], name = D.images[state.image];
  const first = g => labels.indexOf(g);                    // a group goes by its first token
  const colour = g => D.colours[first(g)];
  const size = labels.filter(g => g === mine).length, kept = cut && cut.over ? cut.over.cells : [];
  regions.cells.forEach((cell, token) => {
    const group = labels[token], [x, y] = D.places[token];
    cell.style.fill = colour(group);
    cell.setAttribute("class", group === mine ? "mine" : "");
    attributes(cell, {tabindex: token === state.token ? 0 : -1, "aria-pressed": token === state.token,
      "aria-label": `${part} in row ${y + 1}, column ${x + 1}: group ${group + 1}`});
    if (!D.tied) numbers[token].textContent = group + 1;
    if (!D.tied) numbers[token].style.fill = D.inks[first(group)];
  });
  kept.forEach((cell, token) => cell.setAttribute("class", token < state.K ? "" : "gone"));
  drawOverlay(regions, labels, mine);
  if (again.over) drawOverlay(again.over, labels, mine);
  if (cut && cut.over) {                                   // what is kept, token by token
    const alone = D.places.map((_, token) => token < state.K ? token : -1);
    cut.over.borders.setAttribute("d", sides((a, b) => alone[a] !== alone[b]));
  }
  press(thumbs, state.image);
  thumbCanvases.forEach((canvas, i) => show(canvas, "original", i, 0, D.images[i]));
  if (plain) show(plain, "original", state.image, 0, `${name}, original`, D.padding);
  show(again.canvas, "merging", state.image, row, `${name}, merged to ${state.K} tokens`, D.padding);
  if (cut) show(cut.canvas, "truncation", state.image, row, `${name}, first ${state.K} tokens`, D.padding);
  $("regionswords").textContent = `${D.N} tokens in ${state.K} groups`;
  again.title.textContent = `Drawn again from ${state.K} groups`;
  if (cut) cut.title.textContent = state.K === D.N ? "Truncation: nothing dropped yet" :
    `Truncation: ${D.N - state.K} dropped` + (D.tied ? " (dark)" : "");
  const many = part === "patch" ? "patches" : "tokens";
  $("said").textContent = `Group ${mine + 1} of ${state.K}: ` +
    (size === 1 ? `one ${part}, on its own.` : `${size} ${many} share one token.`);
  drawTrees(row, labels, colour, mine);
}
