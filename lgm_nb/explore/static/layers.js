// Layers of both networks. Rows lie one after the other; widths are multiples of 8.
class Weights {                                               // tensors by name, stored in 16 bits
  constructor(heap, table, halves) { Object.assign(this, {heap, table, halves}); }

  has(name) { return name in this.table; }

  read(name) {
    if (!this.has(name)) throw new Error(`The page lacks the weights ${name}; make it again.`);
    const {shape, at} = this.table[name], n = shape.reduce((a, b) => a * b, 1), out = new Float32Array(n);
    for (let i = 0; i < n; i++) {
      const h = this.halves[at + i], e = (h >> 10) & 31, m = h & 1023;
      const value = e === 0 ? m * 2 ** -24 : (1 + m / 1024) * 2 ** (e - 15);
      out[i] = h >> 15 ? -value : value;
    }
    return out;
  }

  vector(name) {
    const values = this.read(name), at = this.heap.take(up8(values.length));
    this.heap.f.set(values, at);
    return at;
  }

  // A linear layer; each of its parts gets outputs to a multiple of 8, the added ones zero.
  linear(name, parts = 1) {
    const weight = this.read(`${name}.weight`), real = this.table[`${name}.weight`].shape[0];
    const inputs = weight.length / real, outs = real / parts, room = up8(outs), outputs = room * parts;
    const rows = up8(inputs), {heap} = this, at = heap.take(rows * outputs), bias = heap.take(outputs);
    const values = this.read(`${name}.bias`);
    const column = j => j % room < outs ? Math.floor(j / room) * outs + j % room : -1;
    pack(heap.f, at, rows, outputs, (k, j) => column(j) < 0 || k >= inputs ? 0 : weight[column(j) * inputs + k]);
    for (let j = 0; j < outputs; j++) heap.f[bias + j] = column(j) < 0 ? 0 : values[column(j)];
    return {at, bias, inputs: rows, outputs};
  }
}

function apply(heap, layer, x, rows) {
  const out = heap.take(rows * layer.outputs);
  heap.multiply(x, layer.at, layer.bias, out, rows, layer.inputs, layer.outputs);
  return out;
}

// values (rows x count) from outside, each row filled up to what a layer reads
function given(heap, layer, values, rows, count) {
  const at = heap.zeros(rows * layer.inputs);
  for (let i = 0; i < rows; i++) for (let k = 0; k < count; k++)
    heap.f[at + i * layer.inputs + k] = values[i * count + k];
  return at;
}

const silu = x => x / (1 + Math.exp(-x));

function erf(x) {                                             // Numerical Recipes' fit, 1.2e-7 off at most
  const t = 1 / (1 + 0.5 * Math.abs(x));
  const fit = [-1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398,
    1.48851587, -0.82215223, 0.17087277].reduceRight((sum, c) => sum * t + c, 0);
  const y = t * Math.exp(fit - x * x);
  return x >= 0 ? 1 - y : y - 1;
}

function layerNorm(f, x, out, rows, width, weight, bias) {
  for (let i = 0; i < rows; i++) {
    const at = x + i * width, to = out + i * width;
    let mean = 0, square = 0;
    for (let k = 0; k < width; k++) mean += f[at + k];
    mean /= width;
    for (let k = 0; k < width; k++) square += (f[at + k] - mean) ** 2;
    const scale = 1 / Math.sqrt(square / width + 1e-6);
    for (let k = 0; k < width; k++) f[to + k] = (f[at + k] - mean) * scale * f[weight + k] + f[bias + k];
  }
}

const TINY = 1.1920928955078125e-7;                           // torch's RMSNorm: the step of float32 at 1

function rms(f, x, width) {
  let square = 0;
  for (let k = 0; k < width; k++) square += f[x + k] * f[x + k];
  return 1 / Math.sqrt(square / width + TINY);
}

// Self-attention of joint (batch x K rows of queries, keys, values) -> rows (batch x K, width).
// extra: what each key's logit starts from, or null.
function attention(heap, joint, batch, K, width, heads, extra) {
  const f = heap.f, d = width / heads, D = up8(d), Kp = up8(K), scale = 1 / Math.sqrt(d), out = heap.take(batch * K * width);
  heap.within(() => {
    const q = heap.take(K * d), k = heap.take(d * Kp), v = heap.take(Kp * D), zero = heap.zeros(Math.max(Kp, D));
    const logits = heap.take(K * Kp), mixed = heap.take(K * D);
    for (let b = 0; b < batch; b++) for (let h = 0; h < heads; h++) {
      const row = i => joint + (b * K + i) * 3 * width + h * d;
      for (let i = 0; i < K; i++) for (let c = 0, at = row(i); c < d; c++) f[q + i * d + c] = f[at + c] * scale;
      pack(f, k, d, K, (c, j) => f[row(j) + width + c]);
      pack(f, v, Kp, d, (j, c) => j < K ? f[row(j) + 2 * width + c] : 0);
      heap.multiply(q, k, zero, logits, K, d, Kp);
      for (let i = 0; i < K; i++) softmax(f, logits + i * Kp, K, Kp, extra);
      heap.multiply(logits, v, zero, mixed, K, Kp, D);
      for (let i = 0; i < K; i++) for (let c = 0, to = out + (b * K + i) * width + h * d; c < d; c++)
        f[to + c] = f[mixed + i * D + c];
    }
  });
  return out;
}

function softmax(f, at, K, room, extra) {
  let most = -Infinity, sum = 0;
  for (let j = 0; j < K; j++) {
    if (extra) f[at + j] += extra[j];
    if (f[at + j] > most) most = f[at + j];
  }
  for (let j = 0; j < K; j++) sum += f[at + j] = Math.exp(f[at + j] - most);
  for (let j = 0; j < K; j++) f[at + j] /= sum;
  for (let j = K; j < room; j++) f[at + j] = 0;
}

class Vit {                                                   // timm's vision transformer: blocks and a norm
  constructor(w, name, s, depth) {
    Object.assign(this, {heap: w.heap, width: s.width, heads: s.heads});
    const norm = at => [w.vector(`${at}.weight`), w.vector(`${at}.bias`)];
    this.blocks = Array.from({length: depth}, (_, i) => {
      const at = `${name}.blocks.${i}`, scale = part => w.has(`${at}.${part}.gamma`) ? w.vector(`${at}.${part}.gamma`) : null;
      return {norm1: norm(`${at}.norm1`), norm2: norm(`${at}.norm2`), scale1: scale("ls1"), scale2: scale("ls2"),
        qkv: w.linear(`${at}.attn.qkv`), proj: w.linear(`${at}.attn.proj`), wide: w.linear(`${at}.mlp.fc1`), back: w.linear(`${at}.mlp.fc2`)};
    });
    this.norm = norm(`${name}.norm`);
  }

  through(x, batch, tokens) {                                 // rows x (batch x tokens, width), changed in place
    const {heap, width, heads} = this, f = heap.f, rows = batch * tokens, n = rows * width;
    const add = (y, scale) => { for (let i = 0; i < n; i++) f[x + i] += scale === null ? f[y + i] : f[y + i] * f[scale + i % width]; };
    for (const block of this.blocks) {
      heap.within(() => {
        const h = heap.take(n);
        layerNorm(f, x, h, rows, width, ...block.norm1);
        const mixed = attention(heap, apply(heap, block.qkv, h, rows), batch, tokens, width, heads, null);
        add(apply(heap, block.proj, mixed, rows), block.scale1);
      });
      heap.within(() => {
        const h = heap.take(n);
        layerNorm(f, x, h, rows, width, ...block.norm2);
        const m = apply(heap, block.wide, h, rows), end = m + rows * block.wide.outputs;
        for (let i = m; i < end; i++) f[i] = 0.5 * f[i] * (1 + erf(f[i] * Math.SQRT1_2));
        add(apply(heap, block.back, m, rows), block.scale2);
      });
    }
    layerNorm(f, x, x, rows, width, ...this.norm);
  }
}
