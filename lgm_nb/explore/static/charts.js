// Curves over a logarithmic axis. c, the facts: title, across, unit, digits, xrange, yrange, xticks,
// yticks, level [name, y] or null, curves [{name, colour, dashed, K, x, y}] and marks, the same,
// drawn as hollow diamonds.
const nearest = (K, among) => among.reduce((a, b) => Math.abs(Math.log(b / K)) < Math.abs(Math.log(a / K)) ? b : a);
const DASHES = 'stroke-dasharray="4 3"';

function diamond(x, y, colour) {
  return `<path class="lgm-hollow" d="M${px(x)} ${px(y - 5)}l5 5l-5 5l-5-5z" fill="var(--lgm-back, #fff)" ` +
    `stroke="${colour}" stroke-width="1.5"/>`;
}

// s: K, and, where its place on the axis is not K itself, here; width, height
function chart(c, s) {
  const {width = 330, height = 250, K} = s, left = 44, right = 12, bottom = 32, step = 15;
  const lines = [...c.curves, ...c.marks], top = 26 + step * (lines.length + (c.level ? 1 : 0));
  const [x0, x1] = c.xrange, [y0, y1] = c.yrange, foot = height + top - 26 - bottom;
  const X = v => left + (width - left - right) * Math.min(1, Math.max(0, Math.log(v / x0) / (Math.log(x1 / x0) || 1)));
  const Y = v => top + (foot - top) * (y1 - v) / (y1 - y0 || 1);
  const flat = (y, colour, thick, more) => line([[left, Y(y)], [width - right, Y(y)]], colour, thick, more);
  const legend = (row, words, sign) => `<g transform="translate(${left} ${26 + step * row})">${sign}</g>` +
    text(left + 27, 30 + step * row, words);
  const frame = [text(0, 12, c.title, {size: 12}), line([[left, top], [left, foot], [width - right, foot]], "currentColor", 1),
    text((left + width - right) / 2, foot + 28, c.across, {anchor: "middle"}),
    c.xticks.map(v => text(X(v), foot + 14, v, {anchor: "middle", size: 10})),
    c.yticks.map(v => [text(left - 5, Y(v) + 4, v, {anchor: "end", size: 10}), flat(v, "currentColor", 0.3)])];
  if (c.level) frame.push(flat(c.level[1], "gray", 1.2, 'stroke-dasharray="1 3"'),
    legend(lines.length, c.level[0], line([[0, 0], [20, 0]], "gray", 1.2, 'stroke-dasharray="1 3"')));
  const here = X(s.here || K), said = [], drawn = c.curves.map((curve, row) => {
    const colour = METHOD[curve.colour], dashes = curve.dashed ? DASHES : "";
    const near = s.here ? nearest(K, curve.K) : K, i = curve.K.indexOf(near);
    const words = i < 0 ? curve.name : `${curve.name} ${curve.y[i].toFixed(c.digits)}${c.unit}`;
    if (i >= 0) said.push(words);
    return [line(curve.x.map((x, j) => [X(x), Y(curve.y[j])]), colour, 1.5, `class="lgm-curve" ${dashes}`),
      legend(row, words, line([[0, 0], [20, 0]], colour, 2, dashes)),
      i < 0 ? "" : dot(X(curve.x[i]), Y(curve.y[i]), 4.5, colour, 'class="lgm-here" stroke="#fff"')];
  });
  const marks = c.marks.map((mark, i) => {
    const at = mark.K.indexOf(K), words = at < 0 ? mark.name : `${mark.name} ${mark.y[at].toFixed(c.digits)}${c.unit}`;
    if (at >= 0) said.push(words);
    return [mark.x.map((x, j) => diamond(X(x), Y(mark.y[j]), METHOD[mark.colour])),
      legend(c.curves.length + i, words, diamond(10, 0, METHOD[mark.colour]))];
  });
  const upright = line([[here, top], [here, foot]], "gray", 1, DASHES);
  return svg(width, height + top - 26, [frame, upright, drawn, marks],
    `${c.title} over ${c.across}. At K = ${K}: ${said.join(", ") || "nothing measured"}`, 'class="lgm-chart"');
}
