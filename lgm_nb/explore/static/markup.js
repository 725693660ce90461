"use strict";
// Parts of drawings as text, so that a browser and a notebook can draw the same.
const SHOWN = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"};
const escaped = words => String(words).replace(/[&<>"']/g, c => SHOWN[c]);
const px = value => value.toFixed(1);
// the two methods' colours; a page that knows light and dark sets them itself
const METHOD = ["var(--lgm-c0, #0072b2)", "var(--lgm-c1, #d55e00)", "var(--lgm-c2, #009e73)"];
const MARK = "var(--lgm-mark, #d55e00)";

function svg(width, height, parts, label = "", more = "") {
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" ` +
    `viewBox="0 0 ${width} ${height}" ${more.includes("role=") ? "" : 'role="img"'} ${more} ` +
    `aria-label="${escaped(label)}" font-family="sans-serif" font-size="11" ` +
    `style="display:block;max-width:100%;height:auto">${parts.flat(9).join("")}</svg>`;
}

function rect(x, y, w, h, fill = "none", stroke = "none", more = "") {
  return `<rect x="${px(x)}" y="${px(y)}" width="${px(w)}" height="${px(h)}" fill="${fill}" ` +
    `stroke="${stroke}" ${more}/>`;
}

function text(x, y, words, {anchor = "start", fill = "currentColor", size = 11, more = ""} = {}) {
  return `<text x="${px(x)}" y="${px(y)}" text-anchor="${anchor}" fill="${fill}" ` +
    `font-size="${size}" ${more}>${escaped(words)}</text>`;
}

function line(points, stroke = "currentColor", width = 1.5, more = "") {
  const joined = points.map(([x, y]) => `${px(x)},${px(y)}`).join(" ");
  return `<polyline points="${joined}" fill="none" stroke="${stroke}" stroke-width="${width}" ${more}/>`;
}

function dot(x, y, r, fill, more = "") {
  return `<circle cx="${px(x)}" cy="${px(y)}" r="${r}" fill="${fill}" ${more}/>`;
}

const PIXELS = 'decoding="sync" style="image-rendering:pixelated;display:block;margin:0"';

function inside(x, y, w, h, address) {                        // a picture as part of a drawing
  return `<image x="${px(x)}" y="${px(y)}" width="${px(w)}" height="${px(h)}" href="${address}" ` +
    `preserveAspectRatio="none" ${PIXELS}/>`;
}

function stroke(path, colour, width, more = "") {             // a path as wide as said, however enlarged
  return `<path d="${path}" fill="none" stroke="${colour}" stroke-width="${width}" ${more} ` +
    'vector-effect="non-scaling-stroke" pointer-events="none" stroke-linecap="square"/>';
}

const scaled = (unit, parts) => `<g transform="scale(${unit.toFixed(4)})">${parts.flat(9).join("")}</g>`;

function ink(colour) {                                        // black or white, to be read on a colour
  const part = i => parseInt(colour.slice(i, i + 2), 16);
  return 0.3 * part(1) + 0.59 * part(3) + 0.11 * part(5) > 130 ? "#000" : "#fff";
}

// Numbers as colours: matplotlib's palettes at nine places, straight between them.
const PALETTES = {
  viridis: [[68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142], [31, 158, 137],
    [53, 183, 121], [109, 205, 89], [180, 222, 44], [253, 231, 37]],
  inferno: [[0, 0, 4], [27, 12, 65], [74, 12, 107], [120, 28, 109], [165, 44, 96], [207, 68, 70],
    [237, 105, 37], [251, 155, 6], [247, 209, 61], [252, 255, 164]]};

function heat(value, low, high, palette = "viridis") {
  if (!Number.isFinite(value)) return [230, 230, 230];
  const stops = PALETTES[palette], share = Math.min(1, Math.max(0, (value - low) / (high - low || 1)));
  const place = share * (stops.length - 1), i = Math.min(stops.length - 2, Math.floor(place));
  return [0, 1, 2].map(c => Math.round(stops[i][c] + (place - i) * (stops[i + 1][c] - stops[i][c])));
}

const hex = colour => "#" + colour.map(c => c.toString(16).padStart(2, "0")).join("");

// Bytes as text, and pixels as a PNG file: {width, height, channels, data: bytes}.
const DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

function base64(bytes) {
  let out = "";
  for (let i = 0; i < bytes.length; i += 3) {
    const n = (bytes[i] << 16) | ((bytes[i + 1] || 0) << 8) | (bytes[i + 2] || 0), left = bytes.length - i;
    out += DIGITS[n >> 18] + DIGITS[(n >> 12) & 63] + (left > 1 ? DIGITS[(n >> 6) & 63] : "=") +
      (left > 2 ? DIGITS[n & 63] : "=");
  }
  return out;
}

const CRC = Array.from({length: 256}, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n >>> 0;
});

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

const big = n => [n >>> 24, (n >>> 16) & 255, (n >>> 8) & 255, n & 255];

function stored(raw) {                                        // zlib's form, without compressing
  const out = [0x78, 1];
  for (let i = 0; i < raw.length || i === 0; i += 65535) {
    const part = raw.slice(i, i + 65535), n = part.length;
    out.push(i + 65535 >= raw.length ? 1 : 0, n & 255, n >> 8, ~n & 255, (~n >> 8) & 255);
    for (const byte of part) out.push(byte);
  }
  let a = 1, b = 0;
  for (const byte of raw) { a = (a + byte) % 65521; b = (b + a) % 65521; }
  return out.concat(big(((b << 16) | a) >>> 0));
}

// palette: at most 256 colours [red, green, blue], and each number of data names one of them
function png({width, height, channels = 1, data, palette}) {
  const raw = [], row = width * channels;
  for (let y = 0; y < height; y++) {
    raw.push(0);
    for (let x = 0; x < row; x++) raw.push(data[y * row + x]);
  }
  const chunk = (name, body) => {
    const all = [...name].map(c => c.charCodeAt(0)).concat(body);
    return [...big(body.length), ...all, ...big(crc32(all))];
  };
  const head = [...big(width), ...big(height), 8, palette ? 3 : channels === 3 ? 2 : 0, 0, 0, 0];
  const file = [137, 80, 78, 71, 13, 10, 26, 10, ...chunk("IHDR", head),
    ...(palette ? chunk("PLTE", palette.flat()) : []), ...chunk("IDAT", stored(raw)), ...chunk("IEND", [])];
  return "data:image/png;base64," + base64(file);
}

const LEVELS = {};                                            // 255 colours of a palette, and grey

// rows of numbers as a picture, one pixel each
function heatMap(rows, low, high, palette = "viridis") {
  const colours = LEVELS[palette] = LEVELS[palette] ||
    Array.from({length: 255}, (_, i) => heat(i, 0, 254, palette)).concat([heat(NaN)]);
  const scale = 254 / (high - low || 1), top = low + 254 / scale;
  const data = rows.flat().map(value =>
    Number.isFinite(value) ? Math.round((Math.min(top, Math.max(low, value)) - low) * scale) : 255);
  return png({width: rows[0].length, height: rows.length, data, palette: colours});
}

function img(address, width, height, alt) {
  return `<img src="${address}" alt="${escaped(alt)}" width="${width}" height="${height}" ${PIXELS}>`;
}

// Drawings made by svg in one row, as one drawing; titles: words above each.
function beside(drawings, {gap = 24, titles = []} = {}) {
  const sizes = drawings.map(one => /width="(\d+)" height="(\d+)"/.exec(one).slice(1).map(Number));
  const top = titles.length ? 18 : 0, high = top + Math.max(...sizes.map(size => size[1]));
  let x = 0;
  const parts = drawings.map((one, i) => {
    const left = x, words = titles.length ? text(left, 12, titles[i]) : "";
    x += sizes[i][0] + gap;
    return words + one.replace("<svg ", `<svg x="${left}" y="${top}" `);
  });
  return svg(x - gap, high, parts, titles.join("; ") || "drawings in a row", 'role="group"');
}
