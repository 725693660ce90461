const $ = id => document.getElementById(id), D = JSON.parse($("data").textContent), g = D.groups;
const pictures = {version: 0, names: [], bytes: [], addresses: [], shipped: []};
const state = {K: D.start, image: 0, token: Math.floor(7 * D.N / 16), y: 0, seed: 0, tuned: true, guidance: 4, steps: 20, features: 0};
const found = {reconstruct: null, owned: null, sample: null, few: null, scores: null};

function put(id, markup) { $(id).innerHTML = markup; }

const messages = {};                                          // of the networks, of a file, of a field: each its own
function say(source, words = "") {
  messages[source] = words;
  const all = Object.values(messages).filter(one => one).join(" ");
  $("message").hidden = !all;
  $("message").textContent = all;
}

// A picture's bytes as an address, with the tokenizer's black margin where it is wanted.
function address(bytes, margin = 0) {
  const S = D.size, C = D.channels, whole = S + 2 * margin, data = new Uint8Array(whole * whole * C);
  for (let y = 0; y < S; y++) data.set(bytes.subarray(y * S * C, (y + 1) * S * C), ((y + margin) * whole + margin) * C);
  return png({width: whole, height: whole, channels: C, data});
}

function floats(list) {                                       // bytes as the networks read them
  const n = D.size ** 2, C = D.channels, out = new Float32Array(list.length * n * C);
  list.forEach((bytes, b) => {
    for (let i = 0; i < n; i++) for (let c = 0; c < C; c++)
      out[(b * C + c) * n + i] = bytes[i * C + c] / 127.5 - 1;
  });
  return out;
}

function show(list) {                                         // [{name, bytes, shipped}]: from now on, these pictures
  const few = list.slice(0, 8), bytes = few.map(p => p.bytes);
  Object.assign(pictures, {version: pictures.version + 1, names: few.map(p => p.name), bytes,
    shipped: few.map(p => p.shipped), addresses: bytes.map(one => address(one)), images: floats(bytes)});
  const box = $("images");
  box.innerHTML = "";
  few.forEach(({name}, i) => {
    const button = press(box, i, () => { state.image = i; draw(); }, "picture");
    button.innerHTML = img(pictures.addresses[i], 46, 46, name);
  });
  $("back").hidden = few.every(p => p.shipped !== undefined);
}

function press(box, index, act, kind = "", words = "") {      // a button of a group of which one is pressed
  const button = document.createElement("button");
  Object.assign(button, {type: "button", className: kind, textContent: words, onclick: act});
  button.dataset.index = index;
  return box.appendChild(button);
}

function pressed(id, chosen) {
  for (const button of $(id).children) button.setAttribute("aria-pressed", +button.dataset.index === chosen);
}

// What an element shows: of so many tokens, and whether it is what was asked for; else it is faded.
function stands(id, K, fresh) {
  if (K !== undefined) $(id).dataset.k = K;
  $(id).classList.toggle("old", !fresh);
}

function drawBar() {
  const {K} = state, step = D.gflops[K - D.lengths[0]], full = D.gflops[D.gflops.length - 1];
  $("tokens").textContent = `${K} tokens`;
  put("cost", cost({K, N: D.N, step, full}));
  $("count").setAttribute("aria-valuetext", `${K} tokens, ${$("cost").textContent}`);
  if (+$("count").value !== K) $("count").value = K;
  $("link").href = address_of(state);
}

function drawGroups() {
  const {K, token, image} = state, labels = labelsAt(g, K), picture = address(pictures.bytes[image], g.margin);
  const held = document.activeElement && document.activeElement.classList.contains("lgm-cell");
  put("regions", regions(g, {K, chosen: token, picture, press: true, size: 400}));
  if (held) $("regions").querySelector(`[data-token="${token}"]`).focus();
  put("trees", trees(g, {K, chosen: token, width: 200, height: 150}));
  $("regionswords").textContent = `${D.N} tokens in ${K} groups`;
  $("said").textContent = `Group ${labels[token] + 1} of ${K}: ${groupWords(g, labels, labels[token])}.`;
  pressed("images", image);
  for (const id of ["regions", "trees"]) stands(id, K, true);
}

const across = px => Math.min(px, document.body.clientWidth - 24);
const column = (words, drawing) => `<div class="column"><h3>${words}</h3>${drawing}</div>`;

function drawPairs() {                                        // the chosen picture, drawn again
  const made = found.reconstruct, {image, token} = state;
  if (!made || made.version !== pictures.version) return stands("pairs", undefined, false);
  const {K} = made, of = name => address(made.pictures[name][image], g.margin), name = pictures.names[image];
  const parts = [column(`Drawn again from ${K} groups`, bordered(g, {K, picture: of(D.methods[0]), chosen: token, size: 205,
    words: `${name}, drawn again from ${K} groups`}))];
  if (D.methods.includes("truncation")) parts.push(column(K === D.N ? "Truncation: all kept" : `Truncation: ${D.N - K} dropped`,
    bordered(g, {K, picture: of("truncation"), dropped: true, size: 205, words: `${name}, drawn again from the first ${K} tokens`})));
  put("pairs", parts.join(""));
  stands("pairs", K, known("reconstruct"));
}

function drawOwned() {                                        // what the chosen group changes, and all tokens
  const made = found.owned;
  if (!made) return;
  const most = Math.max(...made.change.map(row => Math.max(...row)));
  put("owned", column(`What the group changes (at most ${most.toFixed(2)} of 2)`, owned(g, {...made, size: 205})) +
    column(`All ${made.K} tokens`, numbers({rows: made.tokens, mark: labelsAt(g, made.K)[made.chosen], height: 205})));
  stands("owned", made.K, known("owned"));
}

function drawStrips() {
  const made = found.reconstruct;
  if (!made || made.version !== pictures.version) return stands("strips", undefined, false);
  const {names, addresses} = pictures, size = 100;
  put("strips", strip([{label: "original", pictures: addresses, alts: names, size}, ...D.methods.map(name => ({label: name, size,
    pictures: made.pictures[name].map(bytes => address(bytes)), alts: names.map(n => `${n}, ${name}, ${made.K} tokens`),
    under: made.psnr[name].map(dB => dB.toFixed(1))}))]));
  stands("strips", made.K, known("reconstruct"));
}

function drawLikeness() {
  const scores = found.scores;
  if (!known("scores"))
    return put("likeness", messages.networks ? "" : '<p class="soft">The curve over all token counts is being computed.</p>');
  const means = scores.lengths.map((K, i) => D.methods.map(name => {
    const row = scores.found[name][i];
    return row.reduce((a, b) => a + b, 0) / row.length;
  }));
  const all = means.flat(), low = Math.floor(Math.min(...all)), high = Math.ceil(Math.max(...all)), gap = Math.max(1, Math.ceil((high - low) / 5));
  const ticks = Array.from({length: Math.floor((high - low) / gap) + 1}, (_, i) => low + i * gap);
  const powers = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024].filter(K => K >= D.lengths[0] && K <= D.N);
  put("likeness", chart({title: "PSNR, mean of these pictures", across: "tokens K", unit: " dB", digits: 1, level: null, marks: [],
    xrange: [D.lengths[0], D.N], yrange: [low, high], xticks: powers, yticks: ticks,
    curves: D.methods.map((name, i) => ({name, colour: i, dashed: false, K: scores.lengths, x: scores.lengths, y: means.map(m => m[i])}))},
  {K: state.K, width: across(420)}));
}

function drawAligned() {
  put("aligned", D.alignment.map(facts => chart(facts, {K: state.K, width: across(420)})).join(""));
  put("tables", D.tables.flatMap(a => ["averaged", "flattened"].map(kind => pairs(a, {K: state.K, kind}))).join(""));
}

function drawQuality() {
  pressed("features", state.features);
  if (D.quality.length) put("costs", chart(D.quality[state.features], {K: state.K, here: D.costs[state.K - D.lengths[0]], width: across(560), height: 320}));
}

function plan(K) {                                            // grid points and guidance for K tokens
  const [points, guidance] = D.plans[K - D.lengths[0]];
  return state.tuned ? {points, guidance} : {points: state.steps + 1, guidance: state.guidance};
}

function drawSample() {
  const made = found.sample, name = D.classes[state.y];
  pressed("classes", state.y);
  const {points, guidance} = plan(state.K);
  for (const [id, value] of [["guidance", guidance], ["steps", points - 1]]) {
    $(id).value = value;
    $(id).disabled = state.tuned;
    $(`${id}said`).textContent = value;
  }
  $("tuned").checked = state.tuned;
  if (document.activeElement !== $("seed")) $("seed").value = state.seed;
  if (!made) return;
  const last = made.path.length - 1, at = made.path.map((_, i) => i === 0 ? "pure noise" : i === last ? "picture" : "");
  put("made", row({pictures: [address(made.picture)], alts: [`${made.name}, noise ${made.seed}, ${made.K} tokens`], size: 200,
    label: `${made.name}, noise ${made.seed}, ${made.K} tokens, ${made.points - 1} steps, guidance ${made.guidance}`}) +
    row({pictures: made.path.map(bytes => address(bytes)), alts: made.path.map((_, i) => `state ${i + 1} of ${made.path.length}, decoded`),
      under: at, size: 100, label: "The way from noise to picture: each state decoded (the decoder makes something of pure noise, too)"}));
  stands("made", made.K, known("sample"));
}

function drawFew() {
  const made = found.few;
  if (!made) return;
  if ($("few").dataset.key !== made.key) {                    // buttons stay where they are, and keep the focus
    put("few", "");
    $("few").dataset.key = made.key;
    made.lengths.forEach((K, i) => {
      const button = press($("few"), K, () => go(K), "picture");
      button.innerHTML = `${img(address(made.pictures[i]), 64, 64, `${made.name}, ${K} tokens`)}<span>${K} tokens</span>`;
    });
  }
  pressed("few", state.K);
  stands("few", undefined, known("few"));
}

// What the networks are asked. A key says what an answer is of: what is known is not asked again, an
// answer counts only while its key is wanted, and what stands on the page is faded until it does.
const wish = K => ({y: state.y, seed: state.seed, name: D.classes[state.y], K, ...plan(K)});
const others = [1, 2, 4, 8, 16].map(part => nearest(D.N / part, D.lengths)).filter((K, i, all) => all.indexOf(K) === i);
const KEYS = {
  reconstruct: () => `${state.K} ${pictures.version}`,
  owned: () => `${state.K} ${pictures.version} ${state.image} ${state.token}`,
  scores: () => `${pictures.version}`,
  sample: () => JSON.stringify(wish(state.K)),
  few: () => JSON.stringify(others.map(wish))
};
const FACTS = {
  reconstruct: () => ({pictures: given(), K: state.K}),
  owned: () => ({pictures: given(), picture: state.image, K: state.K, chosen: state.token, group: labelsAt(g, state.K)[state.token]}),
  scores: () => ({pictures: given(), lengths: D.lengths}),
  sample: () => ({...wish(state.K), noise: gaussians(state.seed, D.N * D.latent)}),
  few: () => ({...wish(state.K), lengths: others, plans: others.map(plan), noise: gaussians(state.seed, D.N * D.latent)})
};
const SHOW = {
  reconstruct() { drawPairs(); drawStrips(); },
  owned: drawOwned,
  scores: drawLikeness,
  sample() {
    drawSample();
    const {name, K, seed} = found.sample;
    $("drawn").textContent = `Drawn: ${name}, noise ${seed}, ${K} tokens.`;
    want("few");                                              // the last in turn
  },
  few: drawFew
};
const asks = {};
let server = null, number = 0;

function given() { return {version: pictures.version, images: pictures.images, count: pictures.bytes.length}; }

const known = kind => Boolean(found[kind]) && found[kind].key === KEYS[kind]();

function want(kind) {
  if (!server) return;
  const key = KEYS[kind](), last = asks[kind];
  if (known(kind)) {                                          // what is on its way is of no use any more
    if (last.key !== key) {
      asks[kind] = {id: ++number, key};
      server({kind: "drop", job: kind});
    }
    return;
  }
  if (last && last.key === key) return;
  const facts = FACTS[kind]();
  asks[kind] = {id: ++number, key, told: kind === "sample" || kind === "few" ? {...facts, noise: null} : {}};
  server({kind, id: number, ...facts});
  if (kind === "sample") $("progress").value = 0;
}

function answered({kind, id, error, done, ...facts}) {
  const last = asks[kind];
  if (error) return say("networks", `Computing failed: ${error}`);
  // while somebody waits, an earlier reconstruction is shown on the way
  const between = kind === "reconstruct" && id < last.id && done && !known(kind);
  if (id !== last.id && !between) return;
  if (!done) {
    if (kind === "sample") Object.assign($("progress"), {max: facts.steps, value: facts.step});
    return;
  }
  if (kind === "sample") $("progress").value = $("progress").max;
  found[kind] = {...last.told, ...facts, key: between ? `${facts.K} ${facts.version}` : last.key};
  SHOW[kind]();
}

function askAll() {
  for (const kind of ["reconstruct", "owned", "sample", "scores"]) want(kind);
  if (known("sample")) want("few");
  if (found.few) drawFew();
}

function gaussians(seed, count) {                             // the same numbers for the same seed
  let s = seed >>> 0;
  const uniform = () => {                                     // mulberry32
    s = (s + 0x6d2b79f5) >>> 0;
    let t = Math.imul(s ^ (s >>> 15), 1 | s);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  return Float32Array.from({length: count}, () =>
    Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()));
}
