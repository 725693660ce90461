// What the reader does, what the address remembers, and how the networks are opened.
const FIELDS = {K: "k", image: "image", token: "token", y: "class", seed: "noise", tuned: "tuned", guidance: "guidance",
  steps: "steps", features: "features"};
const BOUNDS = {K: [D.lengths[0], D.N], image: [0, 7], tuned: [0, 1], token: [0, D.N - 1], y: [0, D.classes.length - 1], seed: [0, 4294967295],
  guidance: [1, 10], steps: [2, 60], features: [0, Math.max(0, D.quality.length - 1)]};

function address_of(now) {                                    // own pictures are not in an address
  const shipped = pictures.shipped[now.image], held = {...now, image: shipped};
  return "#" + Object.entries(FIELDS).filter(([name]) => held[name] !== undefined)
    .map(([name, word]) => `${word}=${+held[name]}`).join("&");
}

function restore() {                                          // the state that the address holds, as far as it fits
  const told = new URLSearchParams(location.hash.slice(1));
  for (const [name, word] of Object.entries(FIELDS)) {
    const value = Number(told.get(word));
    if (!(told.get(word) || "").trim() || !Number.isFinite(value)) continue;
    const [low, high] = BOUNDS[name], inside = Math.min(high, Math.max(low, value));
    if (name === "tuned") state.tuned = value !== 0;
    else if (name === "image") state.image = Math.max(0, pictures.shipped.indexOf(Math.round(inside)));
    else state[name] = name === "guidance" ? Math.round(2 * inside) / 2 : Math.round(inside);
  }
}

let remember = 0;
function remembered() {
  clearTimeout(remember);
  remember = setTimeout(() => history.replaceState(null, "", address_of(state)), 300);
}

function draw() {
  for (const part of [drawBar, drawGroups, drawPairs, drawOwned, drawStrips, drawLikeness, drawAligned, drawQuality, drawSample]) part();
  askAll();
  remembered();
}

function go(K) {
  state.K = Math.min(D.N, Math.max(D.lengths[0], K));
  draw();
}

let playing = false, step = 1;
function stop() {
  playing = false;
  $("play").textContent = "\u25B6 Play";
  $("play").setAttribute("aria-label", "Play: run through all token counts");
}

const later = ms => new Promise(done => setTimeout(done, ms));

async function play() {                                       // each count stays until it is drawn, a second at most
  playing = true;
  $("play").textContent = "\u23F8 Pause";
  $("play").setAttribute("aria-label", "Pause");
  while (playing) {
    if (state.K + step < D.lengths[0] || state.K + step > D.N) step = -step;
    if (state.K + step >= D.lengths[0] && state.K + step <= D.N) go(state.K + step);
    await later(160);
    for (let waited = 0; playing && waited < 840 && !(known("reconstruct") && known("sample")); waited += 20) await later(20);
  }
}
$("play").onclick = () => { if (playing) stop(); else play(); };
$("count").oninput = () => { stop(); go(+$("count").value); };

function choose(token) {
  if (token === state.token) return;
  state.token = token;
  for (const part of [drawBar, drawGroups, drawPairs, drawOwned, () => want("owned"), remembered]) part();
}
const tokenOf = event => event.target.dataset && event.target.dataset.token;
for (const kind of ["pointerover", "click"])
  $("regions").addEventListener(kind, event => { if (tokenOf(event) !== undefined) choose(+tokenOf(event)); });
$("regions").addEventListener("keydown", event => {
  const step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
  if (!step || tokenOf(event) === undefined) return;
  event.preventDefault();
  const [x, y] = g.places[+tokenOf(event)], next = g.places.findIndex(p => p[0] === x + step[0] && p[1] === y + step[1]);
  if (next >= 0) choose(next);
});

$("another").onclick = () => {
  state.seed = Math.floor(Math.random() * 100000);
  say("noise");
  draw();
};
$("seed").oninput = () => {
  const value = Number($("seed").value);
  const right = $("seed").value.trim() !== "" && Number.isInteger(value) && value >= 0 && value <= BOUNDS.seed[1];
  say("noise", right ? "" : "A noise is a whole number from 0 to 4294967295; write 0, 1, 2 or any other.");
  if (right) { state.seed = value; draw(); }
};
$("tuned").onchange = () => {
  if (!$("tuned").checked) Object.assign(state, {steps: plan(state.K).points - 1, guidance: plan(state.K).guidance});
  state.tuned = $("tuned").checked;
  draw();
};
for (const id of ["guidance", "steps"]) $(id).oninput = () => { state[id] = +$(id).value; draw(); };
$("link").onclick = async event => {
  event.preventDefault();
  history.replaceState(null, "", address_of(state));
  const own = pictures.shipped[state.image] === undefined ? " (your own picture is not in it)" : "";
  try {
    await navigator.clipboard.writeText(location.href);
    $("link").textContent = `Link copied${own}`;
  } catch (error) { $("link").textContent = `The link is in the address bar${own}`; }
  await later(2500);
  $("link").textContent = "Link to this view";
};
window.addEventListener("hashchange", () => { if (location.hash !== address_of(state)) { restore(); draw(); } });

// Own pictures. How large a file says it is, before it is opened: PNG, GIF, JPEG; else null.
function saidSize(b) {
  const two = i => b[i] * 256 + b[i + 1], is = (at, words) => [...words].every((c, i) => b[at + i] === c.charCodeAt(0));
  if (is(1, "PNG")) return [two(16) * 65536 + two(18), two(20) * 65536 + two(22)];
  if (is(0, "GIF8")) return [b[6] + 256 * b[7], b[8] + 256 * b[9]];
  if (b[0] === 255 && b[1] === 216)
    for (let i = 2; i + 9 < b.length && b[i] === 255; i += 2 + two(i + 2))
      if (b[i + 1] >= 0xc0 && b[i + 1] <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(b[i + 1])) return [two(i + 7), two(i + 5)];
  return null;
}

const MOST = 60e6;
async function readPicture(file) {
  const name = file.name || "this file", bytes = new Uint8Array(await file.slice(0, 262144).arrayBuffer()), size = saidSize(bytes);
  const large = ([w, h]) => new Error(`${name} has ${Math.round(w * h / 1e6)} million pixels; choose a picture of at most 60 million.`);
  if (size && size[0] * size[1] > MOST) throw large(size);
  let bitmap;
  try { bitmap = await createImageBitmap(file); }
  catch (error) { throw new Error(`${name} is no picture that this browser reads; choose a .png or .jpg file.`); }
  const {width, height} = bitmap;
  if (width * height > MOST) throw large([width, height]);
  if (Math.min(width, height) < 8) throw new Error(`${name} is ${width} x ${height} pixels; choose a picture of at least 8 x 8.`);
  const {bytes: made, words} = asRead(squared(bitmap));
  bitmap.close();
  return {name: `your picture ${name}`, bytes: made, words: `${name}: the middle of ${width} x ${height} pixels, made ${D.size} x ${D.size}${words}.`};
}

function squared(bitmap) {                                    // the middle square on white, made small by halves
  let side = Math.min(bitmap.width, bitmap.height), source = bitmap;
  let [x, y] = [(bitmap.width - side) / 2, (bitmap.height - side) / 2];
  while (true) {
    const next = side >= 2 * D.size ? Math.max(D.size, Math.floor(side / 2)) : D.size, canvas = document.createElement("canvas");
    canvas.width = canvas.height = next;
    const pen = canvas.getContext("2d", {willReadFrequently: true});
    Object.assign(pen, {imageSmoothingEnabled: true, imageSmoothingQuality: "high", fillStyle: "#fff"});
    pen.fillRect(0, 0, next, next);
    pen.drawImage(source, x, y, side, side, 0, 0, next, next);
    [source, side, x, y] = [canvas, next, 0, 0];
    if (next === D.size) return pen.getImageData(0, 0, next, next).data;
  }
}

function asRead(rgba) {                                       // grey where the networks are; a bright border inverted
  const S = D.size, C = D.channels, out = new Uint8Array(S * S * C);
  for (let i = 0; i < S * S; i++) {
    const [r, green, b] = [rgba[4 * i], rgba[4 * i + 1], rgba[4 * i + 2]];
    if (C === 1) out[i] = Math.round(0.299 * r + 0.587 * green + 0.114 * b);
    else out.set([r, green, b], 3 * i);
  }
  if (C > 1) return {bytes: out, words: ""};
  let border = 0;
  for (let i = 0; i < S; i++) border += out[i] + out[(S - 1) * S + i] + out[i * S] + out[i * S + S - 1];
  const bright = border / (4 * S) > 127;
  return {bytes: bright ? out.map(v => 255 - v) : out, words: bright ? ", grey, inverted (its border is bright)" : ", grey"};
}

async function take(files) {
  const read = [], wrong = files.length > 8 ? [`Only the first 8 of ${files.length} files were taken.`] : [];
  for (const file of [...files].slice(0, 8)) {
    try { read.push(await readPicture(file)); } catch (error) { wrong.push(error.message); }
  }
  say("file", wrong.join(" "));
  if (!read.length) return;
  $("taken").textContent = read.map(p => p.words).join(" ") + " The networks know only pictures like those they were trained on.";
  show([...read, ...pictures.bytes.map((bytes, i) => ({name: pictures.names[i], bytes, shipped: pictures.shipped[i]}))]);
  state.image = 0;
  draw();
}

function showShipped() {
  show(D.images.map(({name, bytes}, shipped) => ({name, bytes: bytesOfText(bytes), shipped})));
}
$("back").onclick = () => {
  showShipped();
  $("taken").textContent = "";
  say("file");
  state.image = 0;
  draw();
};
$("file").onchange = () => { take($("file").files).then(() => { $("file").value = ""; }); };
window.addEventListener("dragover", event => { event.preventDefault(); document.body.classList.add("dropping"); });
window.addEventListener("dragleave", () => document.body.classList.remove("dropping"));
window.addEventListener("drop", event => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  if (event.dataTransfer.files.length) take(event.dataTransfer.files);
  else say("file", "No file was dropped; drop a .png or .jpg file, or choose one.");
});

// The networks: weights out of the file, computing in a worker where there is one.
const bytesOfText = words => Uint8Array.from(atob(words), c => c.charCodeAt(0));

async function unpacked() {                                   // 16 bits a weight: first all low bytes, then all high ones
  if (typeof DecompressionStream === "undefined")
    throw new Error("This browser is too old for the networks in this page; a version of 2023 or later runs them.");
  const damaged = new Error("The weights in this file are damaged; download it again.");
  let planes;
  try {
    const packed = new Blob([bytesOfText($("weights").textContent.trim())]);
    planes = new Uint8Array(await new Response(packed.stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer());
  } catch (error) { throw damaged; }
  if (planes.length !== 2 * D.engine.halves || crc32(planes) !== D.engine.crc) throw damaged;
  const halves = new Uint16Array(D.engine.halves);
  for (let i = 0; i < halves.length; i++) halves[i] = planes[i] | (planes[halves.length + i] << 8);
  return halves;
}

function beside(code) {                                       // the same code in the page itself
  const script = document.createElement("script");
  script.textContent = `(() => {\n${code}\nwindow.lgmServe = serve;\n})();`;
  document.body.appendChild(script);
  return {post: window.lgmServe(heard), where: "beside the page, which may stutter"};
}

function hired(code) {                                        // a worker that has answered, or the page
  return new Promise(done => {
    const here = () => done(beside(code));
    try {
      const lines = `${code}\nconst receive = serve(m => postMessage(m));\nonmessage = event => receive(event.data);\npostMessage({kind: "hello"});`;
      const worker = new Worker(URL.createObjectURL(new Blob([lines], {type: "text/javascript"})));
      worker.onerror = here;
      worker.onmessage = event => {
        if (event.data.kind !== "hello") return heard(event.data);
        worker.onerror = error => say("networks", `Computing failed: ${error.message || "the worker stopped"}.`);
        done({post: message => worker.postMessage(message), where: "in a worker"});
      };
    } catch (error) { here(); }
  });
}

let opened = null;
function heard(message) {
  if (message.kind === "open") opened(message);
  else answered(message);
}

async function open() {
  const halves = await unpacked(), {post, where} = await hired($("engine").textContent);
  const methods = D.engine.methods.map((one, i) => ({...one, name: D.methods[i],
    labels: D.lengths.slice().reverse().map(K => D.methods[i] === "truncation" ? keptAt(D.N, K) : labelsAt(g, K))}));
  const {backend, error} = await new Promise(done => {
    opened = done;
    post({...D.engine, kind: "open", id: 0, kernel: bytesOfText(D.engine.kernel), halves, methods});
  });
  if (error) throw new Error(error);
  server = post;
  $("backend").textContent = `Computed by ${backend} ${where}.`;
  document.body.dataset.ready = backend;
}

$("howgroups").textContent = (D.groups.tied ?
  `The picture is cut into ${D.N} patches; each has one token. The patches of a group share a token: the average of theirs. ` +
  "Groups side by side differ in colour, groups far apart may have the same. " :
  `Each cell is one of the ${D.N} tokens; cells with one number are averaged into one. `) +
  `Tokens merge only inside their ${D.groups.tied ? "part of the picture" : "row"}. Hover over a ${D.groups.tied ? "patch" : "token"}, ` +
  "tap it, or use the arrow keys: its group is outlined and named.";
D.classes.forEach((name, i) => press($("classes"), i, () => { state.y = i; draw(); }, "", name));
D.features.forEach((name, i) => press($("features"), i, () => { state.features = i; draw(); }, "", name));
$("quality").hidden = D.quality.length === 0;
showShipped();
state.y = D.y;
Object.assign(state, {guidance: plan(state.K).guidance, steps: plan(state.K).points - 1});
restore();
draw();
say("networks", "Loading the networks; if this stays, the file is incomplete: download it again.");
document.addEventListener("DOMContentLoaded", () => {         // the weights come last in the file
  open().then(() => say("networks")).catch(error => say("networks", error.message)).then(draw);
});
