const strips = {}, scores = {};
for (const name of ["original", ...D.methods]) {
  make("h3", $("strips"), {}, name);
  const box = make("div", $("strips"), {class: "eight", style: `--count: ${D.images.length}`});
  const cells = D.images.map(() => make("div", box));
  strips[name] = cells.map(cell => make("canvas", cell));
  if (name !== "original") scores[name] = cells.map(cell => make("span", cell));
}

function drawReconstructions(row) {
  D.images.forEach((kind, i) => {
    show(strips.original[i], "original", i, 0, `${kind}, original`);
    for (const name of D.methods) {
      show(strips[name][i], name, i, row, `${kind}, ${name}, ${state.K} tokens`);
      scores[name][i].textContent = D.psnr[name][row][i].toFixed(1);
    }
  });
  for (const move of likeness) move(state.K);
}

const kinds = choices($("classes"), D.classes, "kind"), made = {};
for (const name of D.methods) {
  const box = make("div", $("made"), {class: "samples"});
  make("h3", box, {}, name);
  const row = make("div", box, {class: "choices", role: "group", "aria-label": `Noise, ${name}`});
  const noises = Array.from({length: D.seeds}, () => "");
  const buttons = choices(row, noises, "seed", "picture"), canvases = buttons.map(b => make("canvas", b));
  buttons.forEach((button, i) => make("span", button, {}, `noise ${i + 1}`));
  made[name] = {buttons, canvases};
}
const most = D.drawn[D.drawn.length - 1];
const shares = [1, 2, 4, 8, 16].map(part => nearest(most / part, D.drawn));
const few = [...new Set(shares)].map(K => {
  const button = make("button", $("few"), {type: "button", class: "picture"});
  const canvases = D.methods.map(() => make("canvas", button));
  make("span", button, {}, `${K} tokens`);
  button.onclick = () => go(K);
  return {K, button, canvases};
});
$("few").style.setProperty("--count", few.length);

function drawSamples() {
  const K = nearest(state.K, D.drawn), row = D.drawn.indexOf(K), kind = D.classes[state.kind];
  const column = seed => seed * D.classes.length + state.kind;
  press(kinds, state.kind);
  $("samples").dataset.drawn = K;
  $("drawn").textContent = K === state.K ? `Drawn with ${K} tokens.` :
    `Drawn with ${K} tokens, the nearest count for which pictures were drawn.`;
  for (const name of D.methods) {
    press(made[name].buttons, state.seed);
    made[name].canvases.forEach((canvas, i) =>
      show(canvas, `${name} samples`, column(i), row, `${kind}, ${name}, noise ${i + 1}, ${K} tokens`));
  }
  for (const {K: count, button, canvases} of few) {
    const there = D.drawn.indexOf(count);
    D.methods.forEach((name, i) => show(canvases[i], `${name} samples`, column(state.seed), there,
      `${kind}, ${name}, ${count} tokens`));
    button.setAttribute("aria-pressed", count === state.K);
  }
}
