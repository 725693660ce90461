"use strict";
// Products of matrices, in one memory for weights and activations. Places in it are counted in
// floats. A right-hand matrix lies in panels of 8 columns, so that the inner loop reads it in order.
class Heap {
  // bytes: kernel.wasm; without WebAssembly or its 128-bit numbers, plain JavaScript computes
  static async open(bytes, floats) {
    const heap = new Heap(), pages = Math.ceil(floats * 4 / 65536);
    try {
      const memory = new WebAssembly.Memory({initial: pages});
      const {instance} = await WebAssembly.instantiate(bytes, {env: {memory}});
      const run = instance.exports.multiply;
      heap.f = new Float32Array(memory.buffer);
      heap.multiply = (a, b, bias, c, M, K, N) => run(a * 4, b * 4, bias * 4, c * 4, M, K, N);
      heap.kind = "WebAssembly";
    } catch (error) {
      heap.f = new Float32Array(pages * 16384);
      heap.multiply = (...places) => multiply(heap.f, ...places);
      heap.kind = "JavaScript";
    }
    return heap;
  }

  constructor() { this.top = 8; }

  take(floats) {
    const at = this.top;
    this.top += (floats + 3) & ~3;
    if (this.top > this.f.length) throw new Error("These networks need more memory than the page has set aside.");
    return at;
  }

  zeros(floats) {
    const at = this.take(floats);
    this.f.fill(0, at, at + floats);
    return at;
  }

  // Work whose places are free again when it is done.
  within(work) {
    const top = this.top;
    try { return work(); } finally { this.top = top; }
  }
}

// c (M x N) = a (M x K) times b (K x N) plus bias (N): the same as kernel.wat, where that cannot run
function multiply(f, a, b, bias, c, M, K, N) {
  for (let j = 0; j < N; j += 2) {
    const panel = b + (j >> 3) * K * 8 + (j & 7), b0 = f[bias + j], b1 = f[bias + j + 1];
    let i = 0;
    for (; i + 4 <= M; i += 4) {
      let p = panel, q = a + i * K, r = q + K, s = r + K, t = s + K;
      let q0 = b0, q1 = b1, r0 = b0, r1 = b1, s0 = b0, s1 = b1, t0 = b0, t1 = b1;
      for (const end = q + K; q < end; p += 8) {
        const u = f[p], v = f[p + 1];
        let x = f[q++]; q0 += x * u; q1 += x * v;
        x = f[r++]; r0 += x * u; r1 += x * v;
        x = f[s++]; s0 += x * u; s1 += x * v;
        x = f[t++]; t0 += x * u; t1 += x * v;
      }
      let o = c + i * N + j;
      f[o] = q0; f[o + 1] = q1; o += N; f[o] = r0; f[o + 1] = r1; o += N;
      f[o] = s0; f[o + 1] = s1; o += N; f[o] = t0; f[o + 1] = t1;
    }
    for (; i < M; i++) {
      let q0 = b0, q1 = b1, q = a + i * K;
      for (let k = 0, p = panel; k < K; k++, p += 8) { const x = f[q++]; q0 += x * f[p]; q1 += x * f[p + 1]; }
      f[c + i * N + j] = q0; f[c + i * N + j + 1] = q1;
    }
  }
}

const up8 = n => (n + 7) & ~7;

// value(k, j) of a matrix (rows x columns), written as panels; columns are filled up to a multiple of 8
function pack(f, at, rows, columns, value) {
  for (let j = 0; j < up8(columns); j++) {
    let place = at + (j >> 3) * rows * 8 + (j & 7);
    for (let k = 0; k < rows; k++, place += 8) f[place] = j < columns ? value(k, j) : 0;
  }
}
