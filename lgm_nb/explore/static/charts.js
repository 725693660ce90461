// a chart with a dot at the token count; returns the function that moves the dots
function plot(box, chart) {
  const W = 420, H = 250, left = 40, right = 14, top = 12, bottom = 42;
  const [x0, x1] = chart.xrange, [y0, y1] = chart.yrange;
  const X = v => left + (W - left - right) * Math.log(v / x0) / (Math.log(x1 / x0) || 1);
  const Y = v => top + (H - top - bottom) * (y1 - v) / ((y1 - y0) || 1);
  const holder = make("div", box, {class: "chart"});
  make("h3", holder, {}, chart.title);
  const svg = shape("svg", holder, {class: "plot", viewBox: `0 0 ${W} ${H}`, role: "img"});
  const text = (x, y, words, anchor) => shape("text", svg, {x, y, "text-anchor": anchor}, words);
  const level = (y, kind) => shape("line", svg, {x1: left, x2: W - right, y1: Y(y), y2: Y(y), class: kind});

  for (const v of chart.yticks) { level(v, "grid"); text(left - 6, Y(v) + 4, v, "end"); }
  for (const v of chart.xticks) text(X(v), H - bottom + 16, v, "middle");
  text((left + W - right) / 2, H - 6, chart.across, "middle");
  if (chart.level) level(chart.level[1], "level");
  const heading = make("p", holder, {class: "soft"}), list = make("ul", holder, {class: "key"});
  const dots = chart.curves.map(curve => drawCurve(svg, list, curve, X, Y, chart));
  for (const marks of chart.marks) drawMarks(svg, list, marks, X, Y);
  if (chart.level) {
    const [name, value] = chart.level;
    const sign = key(list, "", `${name}: ${value.toFixed(chart.digits)}`);
    shape("line", sign, {x1: 0, x2: 26, y1: 6, y2: 6, class: "level"});
  }
  return K => {
    const there = nearest(K, chart.curves[0].K);
    heading.textContent = there === K ? `At ${K} tokens` : `At ${there} tokens, the nearest count measured`;
    const said = dots.map(move => move(there)).filter(words => words);
    svg.setAttribute("aria-label",
      `${chart.title} over ${chart.across}. ${heading.textContent}: ${said.join(", ")}`);
  };
}

function key(list, colour, words) {                        // a line of the legend; returns its sign
  const item = make("li", list, {class: colour}), sign = shape("svg", item, {viewBox: "0 0 26 12"});
  make("span", item, {}, words);
  return sign;
}

function drawCurve(svg, list, curve, X, Y, chart) {
  const colour = `c${curve.colour}`, kind = curve.dashed ? "curve dashed" : "curve";
  const group = shape("g", svg, {class: colour});
  const points = curve.x.map((x, i) => `${X(x).toFixed(1)},${Y(curve.y[i]).toFixed(1)}`);
  shape("polyline", group, {points: points.join(" "), class: kind});
  if (curve.K.length < 20) curve.x.forEach((x, i) =>
    shape("circle", group, {cx: X(x), cy: Y(curve.y[i]), r: 2.5, class: "point"}));
  const dot = shape("circle", group, {r: 6, class: "here"}), sign = key(list, colour, "");
  shape("line", sign, {x1: 0, x2: 26, y1: 6, y2: 6, class: kind});
  return K => {
    const i = curve.K.indexOf(K);
    const words = i < 0 ? "" : `${curve.name} ${curve.y[i].toFixed(chart.digits)}${chart.unit}`;
    dot.style.display = i < 0 ? "none" : "";
    if (i >= 0) attributes(dot, {cx: X(curve.x[i]), cy: Y(curve.y[i])});
    sign.nextSibling.textContent = words || `${curve.name}: not measured here`;
    return words;
  };
}

function drawMarks(svg, list, marks, X, Y) {
  const sign = key(list, `c${marks.colour}`, marks.name);
  const group = shape("g", svg, {class: `c${marks.colour}`});
  const diamond = (box, x, y) => shape("path", box, {class: "hollow", d: `M${x} ${y - 5}l5 5l-5 5l-5-5z`});
  marks.x.forEach((x, i) => diamond(group, X(x), Y(marks.y[i])));
  diamond(sign, 13, 6);
}

const likeness = D.likeness.map(chart => plot($("likeness"), chart));
const aligned = D.alignment.map(chart => plot($("aligned"), chart));
const costs = D.quality.map(chart => plot($("costs"), chart));
const kindsOfFeatures = choices($("features"), D.quality.map(chart => chart.title), "features");
$("quality").hidden = costs.length === 0;

function drawAlignment() { for (const move of aligned) move(state.K); }

function drawQuality() {
  press(kindsOfFeatures, state.features);
  costs.forEach((move, i) => { $("costs").children[i].hidden = i !== state.features; move(state.K); });
}
