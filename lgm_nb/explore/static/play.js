const sections = {bar: drawBar, groups: drawGroups, reconstructions: drawReconstructions,
  alignment: drawAlignment, samples: drawSamples, quality: drawQuality};

function draw() {
  const row = D.lengths.indexOf(state.K);
  for (const id in sections) { sections[id](row); $(id).dataset.k = state.K; }
}

function go(K) { state.K = nearest(K); draw(); }

let timer = null, step = 1;
function stop() {
  clearInterval(timer);
  timer = null;
  $("play").textContent = "\u25B6 Play";
  $("play").setAttribute("aria-label", "Play: run through all token counts");
}
$("play").onclick = () => {
  if (timer) return stop();
  $("play").textContent = "\u23F8 Pause";
  $("play").setAttribute("aria-label", "Pause");
  timer = setInterval(() => {
    const at = D.lengths.indexOf(state.K);
    if (at + step < 0 || at + step >= D.lengths.length) step = -step;
    go(D.lengths[at + step] || state.K);
  }, 160);
};
$("count").oninput = () => { if (timer) stop(); go(+$("count").value); };

Promise.all(Object.entries(D.sprites).map(async ([name, address]) => {
  const picture = new Image();
  picture.src = address;
  await picture.decode();
  const canvas = document.createElement("canvas");         // decoded once, kept as pixels
  canvas.width = picture.width; canvas.height = picture.height;
  canvas.getContext("2d").drawImage(picture, 0, 0);
  pictures[name] = canvas;
})).then(draw);
