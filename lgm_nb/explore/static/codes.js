// The tokenizer: pictures to N latents of C numbers, and back. s: its settings.
function tokenOrder(side, blocks) {                           // the patch of each token, block after block
  let best = null;
  for (let rows = 1; rows <= blocks; rows++) {
    const columns = blocks / rows;
    if (blocks % rows || side % rows || side % columns) continue;
    if (!best || Math.abs(rows - columns) < Math.abs(best[0] - best[1])) best = [rows, columns];
  }
  const [rows, columns] = best, h = side / rows, w = side / columns, order = [];
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++)
    for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) order.push((r * h + y) * side + c * w + x);
  return order;
}

class Tokenizer {
  constructor(w, s) {
    const {heap} = w, side = (s.image_size + 2 * s.padding) / s.patch;
    Object.assign(this, {heap, s, side, P: side * side, order: s.tied ? tokenOrder(side, s.blocks) : null});
    this.patches = w.linear("encoder.vit.patch_embed.proj");
    this.encoder = new Vit(w, "encoder.vit", s, s.encoder_depth);
    this.decoder = new Vit(w, "decoder.vit", s, s.decoder_depth);
    this.places = w.vector("encoder.vit.pos_embed");
    this.toLatent = w.linear("encoder.to_latent");
    this.fromLatent = w.linear("decoder.from_latent");
    this.toPixels = w.linear("decoder.to_pixels");
    this.mask = w.vector("decoder.mask_token");
    this.canvas = w.vector("decoder.vit.pos_embed");
    if (!s.tied) {
      this.first = [w.vector("encoder.vit.cls_token"), w.vector("decoder.vit.cls_token")];
      this.tokens = w.vector("encoder.latent_tokens");
      this.tokenPlaces = [w.vector("encoder.latent_pos"), w.vector("decoder.latent_pos")];
    }
    if (s.latents === "softvq") this.books = unitRows(w.read("quantize.codebook"), s.channels);
  }

  // T tokens in all, of which `front` come before the patches
  get layout() { return this.s.tied ? {front: 0, T: this.P} : {front: 1, T: 1 + this.P + this.s.tokens}; }

  // images (batch, channels, size, size) in [-1, 1], one after the other -> z (batch, N, C)
  encode(images, batch) {
    const {heap, s, P} = this, f = heap.f, {front, T} = this.layout, width = s.width;
    return heap.within(() => {
      const embedded = apply(heap, this.patches, this.cut(images, batch), batch * P), h = heap.take(batch * T * width);
      const sum = (to, a, b, n) => { for (let i = 0; i < n; i++) f[to + i] = f[a + i] + f[b + i]; };
      for (let b = 0; b < batch; b++) {
        const at = h + b * T * width;
        if (front) sum(at, this.first[0], this.places, width);
        sum(at + front * width, embedded + b * P * width, this.places + front * width, P * width);
        if (!s.tied) sum(at + (1 + P) * width, this.tokens, this.tokenPlaces[0], s.tokens * width);
      }
      this.encoder.through(h, batch, T);
      const raw = apply(heap, this.toLatent, h, batch * T), room = this.toLatent.outputs;
      const z = new Float32Array(batch * s.tokens * s.channels);
      for (let b = 0; b < batch; b++) for (let i = 0; i < s.tokens; i++) {
        const from = raw + (b * T + (s.tied ? this.order[i] : 1 + P + i)) * room, to = (b * s.tokens + i) * s.channels;
        for (let c = 0; c < s.channels; c++) z[to + c] = f[from + c];
      }
      return this.formed(z);
    });
  }

  cut(images, batch) {                                        // patches as rows, with a black margin around
    const {heap, s, side, P} = this, L = this.patches.inputs, size = s.image_size, at = heap.zeros(batch * P * L);
    for (let b = 0; b < batch; b++) for (let p = 0; p < P; p++) for (let c = 0; c < s.image_channels; c++)
      for (let y = 0; y < s.patch; y++) for (let x = 0; x < s.patch; x++) {
        const Y = Math.floor(p / side) * s.patch + y - s.padding, X = (p % side) * s.patch + x - s.padding;
        const inside = Y >= 0 && X >= 0 && Y < size && X < size;
        heap.f[at + (b * P + p) * L + (c * s.patch + y) * s.patch + x] =
          inside ? images[((b * s.image_channels + c) * size + Y) * size + X] : -1;
      }
    return at;
  }

  formed(z) {                                                 // the form of the latents is imposed
    const {s} = this;
    if (s.latents === "sphere") return normalised(z, s.channels);
    return s.latents === "softvq" ? mixed(unitRows(z, s.channels), this.books, s) : z;
  }

  // z (batch, N, C) -> images (batch, channels, size, size), not clamped
  decode(z, batch) {
    const {heap, s, P} = this, f = heap.f, {front, T} = this.layout, width = s.width, N = s.tokens;
    return heap.within(() => {
      const layer = this.fromLatent, h = heap.take(batch * T * width);
      const latents = apply(heap, layer, given(heap, layer, z, batch * N, s.channels), batch * N);
      for (let b = 0; b < batch; b++) {
        const at = h + b * T * width;
        if (front) for (let k = 0; k < width; k++) f[at + k] = f[this.first[1] + k] + f[this.canvas + k];
        for (let i = front; i < front + P; i++) for (let k = 0; k < width; k++)
          f[at + i * width + k] = f[this.mask + k] + f[this.canvas + i * width + k];
        for (let i = 0; i < N; i++) {
          const to = at + (s.tied ? this.order[i] : 1 + P + i) * width, from = latents + (b * N + i) * width;
          for (let k = 0; k < width; k++)
            f[to + k] = f[from + k] + (s.tied ? f[to + k] : f[this.tokenPlaces[1] + i * width + k]);
        }
      }
      this.decoder.through(h, batch, T);
      return this.joined(apply(heap, this.toPixels, h, batch * T), batch);
    });
  }

  joined(cells, batch) {                                      // patches put together, without the margin
    const {heap, s, side} = this, {front, T} = this.layout, size = s.image_size, channels = s.image_channels;
    const out = new Float32Array(batch * channels * size * size), room = this.toPixels.outputs;
    let i = 0;
    for (let b = 0; b < batch; b++) for (let c = 0; c < channels; c++)
      for (let y = s.padding; y < size + s.padding; y++) for (let x = s.padding; x < size + s.padding; x++, i++) {
        const p = Math.floor(y / s.patch) * side + Math.floor(x / s.patch);
        const within = ((y % s.patch) * s.patch + x % s.patch) * channels + c;
        out[i] = heap.f[cells + (b * T + front + p) * room + within];
      }
    return out;
  }
}

function normalised(z, C) {                                   // mean 0 and root mean square 1 over C numbers
  for (let i = 0; i < z.length; i += C) {
    const one = z.subarray(i, i + C), mean = one.reduce((a, b) => a + b, 0) / C;
    const scale = 1 / Math.sqrt(one.reduce((a, b) => a + (b - mean) ** 2, 0) / C + 1e-5);
    for (let c = 0; c < C; c++) one[c] = (one[c] - mean) * scale;
  }
  return z;
}

function unitRows(z, C) {
  for (let i = 0; i < z.length; i += C) {
    const one = z.subarray(i, i + C), length = Math.max(1e-12, Math.hypot(...one));
    for (let c = 0; c < C; c++) one[c] /= length;
  }
  return z;
}

function mixed(z, books, {channels: C, codewords: V, tokens: N, blocks: G}) {
  const out = new Float32Array(z.length);                     // each token a soft mixture of its block's words
  for (let i = 0; i < z.length / C; i++) {
    const book = Math.floor((i % N) / (N / G)) * V * C, share = new Float64Array(V);
    for (let v = 0; v < V; v++) {
      for (let c = 0; c < C; c++) share[v] += z[i * C + c] * books[book + v * C + c];
      share[v] /= 0.07;
    }
    softmax(share, 0, V, V, null);
    for (let v = 0; v < V; v++) for (let c = 0; c < C; c++) out[i * C + c] += share[v] * books[book + v * C + c];
  }
  return out;
}

class Pattern {                                               // labels: group of each token, -1 where it is dropped
  constructor(labels) {
    Object.assign(this, {labels, N: labels.length, K: Math.max(...labels) + 1});
    this.sizes = new Array(this.K).fill(0);
    for (const group of labels) if (group >= 0) this.sizes[group]++;
    this.logSizes = labels.includes(-1) ? null : this.sizes.map(Math.log);
  }

  merge(z, width) {                                           // (batch N, width) -> (batch K, width): means
    const {N, K, labels, sizes} = this, batch = z.length / N / width, out = new Float32Array(batch * K * width);
    for (let b = 0; b < batch; b++) labels.forEach((group, i) => {
      if (group >= 0) for (let c = 0; c < width; c++)
        out[(b * K + group) * width + c] += z[(b * N + i) * width + c];
    });
    for (let i = 0; i < out.length; i++) out[i] /= sizes[Math.floor(i / width) % K];
    return out;
  }

  unmerge(z, width) {                                         // the other way; dropped tokens are zero
    const {N, K, labels} = this, batch = z.length / K / width, out = new Float32Array(batch * N * width);
    for (let b = 0; b < batch; b++) labels.forEach((group, i) => {
      if (group >= 0) for (let c = 0; c < width; c++)
        out[(b * N + i) * width + c] = z[(b * K + group) * width + c];
    });
    return out;
  }
}
