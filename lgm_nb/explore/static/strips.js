// Rows of pictures. Each picture is an address; words and numbers stand under it.
function said(words, width = 800) {
  return `<div style="font-size:12px;line-height:1.4;padding:2px 0 6px;max-width:${width}px">${words}</div>`;
}

// r: pictures [address], alts [words], under [words] or null, label, size, mark (one that is framed),
// wrap: px after which a next line begins (else all stand in one)
function row(r) {
  const size = r.size || 76;
  const cells = r.pictures.map((address, i) => `<figure style="margin:0;min-width:0;text-align:center;` +
    `${r.mark === i ? `outline:2px solid ${MARK};` : ""}">` +
    `<img src="${address}" alt="${escaped(r.alts[i])}" width="${size}" height="${size}" decoding="sync" ` +
    `style="image-rendering:pixelated;display:block;width:100%;height:auto;margin:0">` +
    (r.under ? `<figcaption style="font-size:11px;font-variant-numeric:tabular-nums">${escaped(r.under[i])}</figcaption>` : "") +
    "</figure>");
  const columns = r.wrap ? `auto-fill,${size}px` : `${r.pictures.length},minmax(0,${size}px)`;
  const grid = `display:grid;grid-template-columns:repeat(${columns});gap:${r.wrap ? `5px;max-width:${r.wrap}px` : "2px"}`;
  return `<div class="lgm-row"><div style="font-size:12px">${escaped(r.label || "")}</div>` +
    `<div style="${grid}">${cells.join("")}</div></div>`;
}

// rows, as above
const strip = rows => `<div class="lgm-strip">${rows.map(row).join("")}</div>`;

// What one sampling step costs. b: K, N, step and full in GFLOPs
function cost(b) {
  const share = 100 * b.step / b.full;
  return `<span class="lgm-cost" data-k="${b.K}"><b>${b.K}</b> of ${b.N} tokens &middot; ${b.step.toPrecision(3)} GFLOPs ` +
    `per sampling step &middot; <b>${share.toFixed(0)}%</b> of that at K = ${b.N}</span>`;
}
