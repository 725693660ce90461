"use strict";
const $ = id => document.getElementById(id), D = JSON.parse($("data").textContent), pictures = {};
const state = {K: nearest(+$("count").value), token: 0, image: 0, kind: 0, seed: 0, features: 0};

function nearest(K, among = D.lengths) {
  return among.reduce((a, b) => Math.abs(b - K) < Math.abs(a - K) ? b : a);
}

function attributes(element, values) {
  for (const name in values) element.setAttribute(name, values[name]);
  return element;
}

function make(tag, parent, values = {}, words = "") {
  const element = attributes(document.createElement(tag), values);
  element.textContent = words;
  return parent.appendChild(element);
}

function shape(tag, parent, values = {}, words = "") {
  const element = attributes(document.createElementNS("http://www.w3.org/2000/svg", tag), values);
  element.textContent = words;
  return parent.appendChild(element);
}

// one square of a sprite, copied in one step; margin: black pixels around it
function show(canvas, sprite, column, row, label, margin = 0) {
  const S = D.size, whole = S + 2 * margin, pen = canvas.getContext("2d");
  if (canvas.width !== whole || canvas.height !== whole) canvas.width = canvas.height = whole;
  pen.drawImage(pictures[sprite], column * S, row * S, S, S, margin, margin, S, S);
  attributes(canvas, {role: "img", "aria-label": label});
}

function choices(box, names, key, kind = "") {             // buttons of which one is pressed
  return names.map((name, i) => {
    const button = make("button", box, {type: "button", class: kind}, name);
    button.onclick = () => { state[key] = i; draw(); };
    return button;
  });
}

function press(buttons, chosen) {
  buttons.forEach((button, i) => button.setAttribute("aria-pressed", i === chosen));
}

function drawBar(row) {
  const most = D.lengths[D.lengths.length - 1], here = D.gflops[row];
  const all = D.gflops[D.gflops.length - 1], times = all / here;
  const ratio = state.K === most ? "the full cost" :
    `${(100 * here / all).toFixed(0)} % of the cost at ${most} tokens, ` +
    `${times.toFixed(times < 10 ? 1 : 0)} times less`;
  $("tokens").textContent = `${state.K} tokens`;
  $("cost").textContent = `${here.toPrecision(3)} GFLOPs per sampling step (${ratio})`;
  $("count").setAttribute("aria-valuetext", `${state.K} tokens, ${$("cost").textContent}`);
  if (nearest(+$("count").value) !== state.K) $("count").value = state.K;
}
