// The diffusion transformer over K merged tokens, and drawing with it. s: its settings.
class Generator {
  constructor(w, s) {
    Object.assign(this, {heap: w.heap, s, N: s.tokens, C: s.channels, classes: s.classes});
    this.positions = w.read("pos");
    this.labels = w.read("label.weight");
    this.embed = w.linear("embed");
    this.time = [w.linear("time.0"), w.linear("time.2")];
    this.blocks = Array.from({length: s.depth}, (_, i) => {
      const at = `blocks.${i}`;
      return {norm1: w.vector(`${at}.norm1.weight`), norm2: w.vector(`${at}.norm2.weight`),
        q: w.vector(`${at}.attn.q_norm.weight`), k: w.vector(`${at}.attn.k_norm.weight`),
        qkv: w.linear(`${at}.attn.qkv`), proj: w.linear(`${at}.attn.proj`), wide: w.linear(`${at}.mlp.w12`, 2),
        back: w.linear(`${at}.mlp.w3`), modulation: w.linear(`${at}.modulation.linear`)};
    });
    this.norm = w.vector("final_norm.weight");
    this.modulation = w.linear("final_modulation.linear");
    this.out = w.linear("out");
  }

  condition(t, classes) {                                     // (batch, width), already through SiLU
    const {heap, s} = this, f = heap.f, width = s.width, feature = heap.take(256);
    for (let i = 0; i < 128; i++) {
      const angle = t * Math.exp(-Math.log(10000) * i / 128);
      f[feature + i] = Math.cos(angle);
      f[feature + 128 + i] = Math.sin(angle);
    }
    const first = apply(heap, this.time[0], feature, 1);
    for (let k = 0; k < width; k++) f[first + k] = silu(f[first + k]);
    const time = apply(heap, this.time[1], first, 1), c = heap.take(classes.length * width);
    classes.forEach((y, b) => {
      for (let k = 0; k < width; k++) f[c + b * width + k] = silu(f[time + k] + this.labels[y * width + k]);
    });
    return c;
  }

  // Rows x normed, then multiplied by 1 + scale and shifted; scale, shift: places in m, a row a picture.
  modulated(x, out, rows, K, weight, m, parts, scale, shift) {
    const f = this.heap.f, width = this.s.width;
    for (let i = 0; i < rows; i++) {
      const at = x + i * width, norm = rms(f, at, width), row = m + Math.floor(i / K) * parts * width;
      for (let k = 0; k < width; k++) f[out + i * width + k] =
        f[at + k] * norm * f[weight + k] * (1 + f[row + scale * width + k]) + f[row + shift * width + k];
    }
  }

  // x (batch K, C) at time t, a class for each of the batch -> velocity (batch K, C)
  velocity(x, t, classes, pattern) {
    const {heap, s, C} = this, f = heap.f, width = s.width, K = pattern.K, batch = classes.length, rows = batch * K;
    return heap.within(() => {
      const c = this.condition(t, classes), merges = K < this.N && s.merged_positions;
      const positions = merges ? pattern.merge(this.positions, width) : this.positions;
      const h = apply(heap, this.embed, given(heap, this.embed, x, rows, C), rows), n = rows * width;
      for (let i = 0; i < n; i++) f[h + i] += positions[i % (K * width)];
      const extra = K < this.N && s.count_sizes ? pattern.logSizes : null, normed = heap.take(n);
      for (const block of this.blocks) heap.within(() => this.through(block, h, normed, c, batch, K, extra));
      const m = apply(heap, this.modulation, c, batch);
      this.modulated(h, normed, rows, K, this.norm, m, 2, 1, 0);
      const v = apply(heap, this.out, normed, rows), room = this.out.outputs, out = new Float32Array(rows * C);
      for (let i = 0; i < rows; i++) for (let k = 0; k < C; k++) out[i * C + k] = f[v + i * room + k];
      return out;
    });
  }

  through(block, h, normed, c, batch, K, extra) {
    const {heap, s} = this, f = heap.f, width = s.width, rows = batch * K, m = apply(heap, block.modulation, c, batch);
    const add = (y, gate) => {
      for (let i = 0; i < rows; i++) for (let k = 0, row = m + (Math.floor(i / K) * 6 + gate) * width; k < width; k++)
        f[h + i * width + k] += f[row + k] * f[y + i * width + k];
    };
    heap.within(() => {
      this.modulated(h, normed, rows, K, block.norm1, m, 6, 1, 0);
      const joint = apply(heap, block.qkv, normed, rows);
      this.normHeads(joint, rows, block);
      add(apply(heap, block.proj, attention(heap, joint, batch, K, width, s.heads, extra), rows), 2);
    });
    heap.within(() => {
      this.modulated(h, normed, rows, K, block.norm2, m, 6, 4, 3);
      const both = apply(heap, block.wide, normed, rows), H = block.wide.outputs / 2, gated = heap.take(rows * H);
      for (let i = 0; i < rows; i++) for (let k = 0; k < H; k++)
        f[gated + i * H + k] = silu(f[both + 2 * i * H + k]) * f[both + (2 * i + 1) * H + k];
      add(apply(heap, block.back, gated, rows), 5);
    });
  }

  normHeads(joint, rows, block) {                             // queries and keys of each head, in place
    const f = this.heap.f, width = this.s.width, heads = this.s.heads, d = width / heads;
    for (let i = 0; i < rows; i++) for (let part = 0; part < 2; part++) for (let head = 0; head < heads; head++) {
      const at = joint + (3 * i + part) * width + head * d, weight = part ? block.k : block.q, norm = rms(f, at, d);
      for (let k = 0; k < d; k++) f[at + k] *= norm * f[weight + k];
    }
  }
}

function timeGrid(points, shift) {
  return Array.from({length: points}, (_, i) => {
    const u = i / (points - 1);
    return shift * u / (1 + (shift - 1) * u);
  });
}

function startNoise(noise, pattern, C, form) {                // full-space noise (N, C) as K tokens
  const x = pattern.merge(noise, C);
  if (form === "merged" || form === "unweighted") return x;
  const whole = form === "shifted" ? Math.sqrt(pattern.K / pattern.N) : 1;
  for (let i = 0; i < x.length; i++) x[i] *= Math.sqrt(pattern.sizes[Math.floor(i / C)]) * whole;
  return x;
}

// Velocities with class a and without b, combined.
function guided(a, b, weight, pattern, mode, C) {
  return a.map((v, i) => mode === "standard" ? b[i] + weight * (v - b[i]) :
    v + (weight - 1) / pattern.sizes[Math.floor(i / C)] * (v - b[i]));
}

// One picture's latents (K, C), step by step: gives [step, x] before each step and after the last.
function* drawn(generator, y, pattern, noise, {points, shift, guidance, mode, form}) {
  const C = generator.C, times = timeGrid(points, shift);
  let x = startNoise(noise, pattern, C, form);
  for (let i = 0; i + 1 < points; i++) {
    yield [i, x];
    const now = times[i];
    let v;
    if (guidance !== 1 && now >= 0.1) {
      const twice = new Float32Array(2 * x.length);
      twice.set(x);
      twice.set(x, x.length);
      const both = generator.velocity(twice, now, [y, generator.classes], pattern);
      v = guided(both.subarray(0, x.length), both.subarray(x.length), guidance, pattern, mode, C);
    } else v = generator.velocity(x, now, [y], pattern);
    x = x.map((value, j) => value + (times[i + 1] - now) * v[j]);
  }
  yield [points - 1, x];
}
