// What computes for the page: in a worker, or, where there is none, beside the page's own work.
// A job is a generator, so that it stops between two steps when a newer one of its kind arrives;
// kinds are served in the order of ORDER. post(answer): {kind, id, ...}, or {kind, id, error}.
const ORDER = ["reconstruct", "owned", "sample", "few", "scores"];

function serve(post) {
  const jobs = new Map(), waiting = new Map(), channel = new MessageChannel();
  let net = null, running = false;
  const pause = () => new Promise(done => { channel.port1.onmessage = done; channel.port2.postMessage(0); });

  function finish(kind, job) {
    if (jobs.get(kind) === job) jobs.delete(kind);
    if (waiting.has(kind)) jobs.set(kind, waiting.get(kind));
    waiting.delete(kind);
  }

  async function work() {
    if (running || net === null) return;
    running = true;
    while (jobs.size) {
      const kind = ORDER.find(name => jobs.has(name)), job = jobs.get(kind);
      try {
        const {done, value} = job.steps.next();
        if (value) post({kind, id: job.id, done, ...value});
        if (done) finish(kind, job);
      } catch (error) {
        finish(kind, job);
        post({kind, id: job.id, error: error.message});
      }
      await pause();
    }
    running = false;
  }

  return async ({kind, id, ...facts}) => {
    try {
      if (kind === "open") {
        net = await Networks.open(facts);
        post({kind, id, done: true, backend: net.heap.kind});
      } else if (kind === "drop") {
        jobs.delete(facts.job);
        waiting.delete(facts.job);
      } else {                                                // a short job is finished, and shown, before the next
        const queue = kind === "reconstruct" && jobs.has(kind) ? waiting : jobs;
        queue.set(kind, {id, steps: JOBS[kind](() => net, facts)});
      }
    } catch (error) { post({kind, id, error: error.message}); }
    work();
  };
}

class Networks {
  // kernel, halves: bytes and weights; methods: [{name, settings, table, labels [per K]}], generator:
  // {settings, table, form, mode, shift}; mean, std: of a latent's numbers
  static async open({kernel, halves, methods, generator, mean, std}) {
    const s = methods[0].settings, g = generator.settings, T = 1 + (s.image_size / s.patch + 1) ** 2 + s.tokens;
    const batch = Math.max(8, s.channels + 1), rows = Math.max(batch * T * s.width, 2 * s.tokens * g.width);
    const net = new Networks();
    net.heap = await Heap.open(kernel, 1.3 * halves.length + 24 * rows + 4 * T * T + 400000);
    net.methods = methods.map(({name, settings, table, labels}) =>
      ({name, labels, tokenizer: new Tokenizer(new Weights(net.heap, table, halves), settings), kept: {}}));
    net.generator = new Generator(new Weights(net.heap, generator.table, halves), g);
    return Object.assign(net, {drawing: generator, mean, std, s});
  }

  pattern(method, K) { return new Pattern(method.labels[this.s.tokens - K]); }

  // Latents of the pictures {version, images, count}, kept while the version stays.
  latents(method, {version, images, count}) {
    if (method.kept.version !== version) method.kept = {version, z: method.tokenizer.encode(images, count)};
    return method.kept.z;
  }

  restored(x) { return x.map((value, i) => value * this.std[i % this.s.channels] + this.mean[i % this.s.channels]); }

  decoded(x, pattern, count) {                                // normalised latents (count K, C) -> bytes
    const [first] = this.methods, z = pattern.unmerge(this.restored(x), this.s.channels);
    return bytesOf(first.tokenizer.decode(z, count), count, this.s);
  }
}

// Images in [-1, 1] (count, channels, size, size) as bytes, the channels of a pixel side by side.
function bytesOf(images, count, {image_channels: channels, image_size: size}) {
  const n = size * size;
  return Array.from({length: count}, (_, b) => {
    const out = new Uint8Array(n * channels);
    for (let c = 0; c < channels; c++) for (let i = 0; i < n; i++) {
      const value = images[(b * channels + c) * n + i];
      out[i * channels + c] = Math.round((Math.min(1, Math.max(-1, value)) + 1) * 127.5);
    }
    return out;
  });
}

function decibels(made, images, b, n) {                       // PSNR of picture b, of n numbers
  let sum = 0;
  for (let i = b * n; i < (b + 1) * n; i++) sum += (Math.min(1, Math.max(-1, made[i])) - images[i]) ** 2;
  return 10 * Math.log10(4 / Math.max(sum / n, 1e-10));
}

function again(net, method, pictures, K) {                    // reconstructions at K, and their PSNR
  const pattern = net.pattern(method, K), C = net.s.channels, {images, count} = pictures;
  const z = pattern.unmerge(pattern.merge(net.latents(method, pictures), C), C);
  const made = method.tokenizer.decode(z, count), n = images.length / count;
  return {made, psnr: Array.from({length: count}, (_, b) => decibels(made, images, b, n))};
}

const JOBS = {
  *reconstruct(open, {pictures, K}) {
    const net = open(), found = {K, version: pictures.version, pictures: {}, psnr: {}};
    for (const method of net.methods) {
      const {made, psnr} = again(net, method, pictures, K);
      found.pictures[method.name] = bytesOf(made, pictures.count, net.s);
      found.psnr[method.name] = psnr;
      yield;
    }
    return found;
  },

  *scores(open, {pictures, lengths}) {                        // PSNR of all pictures at every length
    const net = open(), found = {};
    for (const {name} of net.methods) found[name] = [];
    for (const K of lengths) for (const method of net.methods) {
      found[method.name].push(again(net, method, pictures, K).psnr);
      yield;
    }
    return {lengths, found};
  },

  // what moving one group's token changes, and all tokens, in units of the latents' spread
  *owned(open, {pictures, picture, K, group, chosen}) {
    const net = open(), [method] = net.methods, {channels: C, tokens: N, image_channels, image_size: size} = net.s;
    const pattern = net.pattern(method, K), z = net.latents(method, pictures).slice(picture * N * C, (picture + 1) * N * C);
    yield;
    const short = pattern.merge(z, C), moved = new Float32Array((C + 1) * short.length);
    for (let c = 0; c <= C; c++) {
      moved.set(short, c * short.length);
      if (c) moved[c * short.length + group * C + c - 1] += net.std[c - 1];
    }
    const made = method.tokenizer.decode(pattern.unmerge(moved, C), C + 1), n = image_channels * size * size;
    const change = Array.from({length: size}, (_, y) => Array.from({length: size}, (_, x) => {
      let sum = 0;
      for (let c = 1; c <= C; c++) for (let k = 0; k < image_channels; k++) {
        const i = (k * size + y) * size + x;
        sum += (made[c * n + i] - made[i]) ** 2;
      }
      return Math.sqrt(sum / C / image_channels);
    }));
    const tokens = Array.from({length: K}, (_, i) => [...short.subarray(i * C, (i + 1) * C)].map((v, c) => (v - net.mean[c]) / net.std[c]));
    return {K, picture, chosen, version: pictures.version, change, tokens};
  },

  *sample(open, {y, K, noise, points, guidance}) {            // one picture, and up to nine on its way
    const net = open(), pattern = net.pattern(net.methods[0], K), path = [], steps = points - 1;
    const count = Math.min(9, points), kept = new Set(Array.from({length: count}, (_, i) => Math.round(i * steps / (count - 1))));
    const plan = {...net.drawing, points, guidance};
    for (const [step, x] of drawn(net.generator, y, pattern, noise, plan)) {
      if (kept.has(step)) path.push(...net.decoded(x, pattern, 1));
      yield {step, steps};
    }
    return {K, y, path, picture: path[path.length - 1]};
  },

  *few(open, {y, lengths, noise, plans}) {                    // the same noise at other lengths
    const net = open(), pictures = [];
    for (const [i, K] of lengths.entries()) {
      const pattern = net.pattern(net.methods[0], K), plan = {...net.drawing, ...plans[i]};
      let last;
      for (const [, x] of drawn(net.generator, y, pattern, noise, plan)) { last = x; yield; }
      pictures.push(...net.decoded(last, pattern, 1));
    }
    return {y, lengths, pictures};
  }
};
