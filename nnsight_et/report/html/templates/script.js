const listen = (svg) => {
  const marks = [...svg.querySelectorAll(".m")];
  const told = svg.parentElement.querySelector("output");
  if (!marks.length || !told) return;
  const columns = Number(svg.dataset.columns) || 1;
  let at = -1;
  const show = (index) => {
    if (at >= 0) marks[at].classList.remove("on");
    at = index;
    if (at >= 0) marks[at].classList.add("on");
    told.textContent = at < 0 ? "" : marks[at].querySelector("title").textContent;
  };
  svg.addEventListener("pointerover", (event) => {
    const mark = event.target.closest(".m");
    if (mark) show(marks.indexOf(mark));
  });
  svg.addEventListener("pointerleave", () => show(-1));
  svg.addEventListener("blur", () => show(-1));
  svg.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
    if (event.key === "Escape") return show(-1);
    if (!(event.key in steps)) return;
    event.preventDefault();
    const next = at < 0 ? 0 : at + steps[event.key];
    if (next >= 0 && next < marks.length) show(next);
  });
};
for (const svg of document.querySelectorAll("figure svg")) listen(svg);

// Large figures are text until somebody comes near, so that a page with tens of thousands of marks opens at once.
const draw = (within) => {
  for (const kept of within.querySelectorAll("script.late")) {
    const figure = kept.parentElement;
    figure.querySelector("svg").outerHTML = kept.textContent;
    kept.remove();
    listen(figure.querySelector("svg"));
  }
};
const near = new IntersectionObserver((found) => {
  for (const one of found) if (one.isIntersecting) draw(one.target), near.unobserve(one.target);
}, { rootMargin: "50%" });
for (const kept of document.querySelectorAll("script.late")) near.observe(kept.parentElement);
addEventListener("beforeprint", () => draw(document));

let save = (name, rows) => {
  const quoted = (cell) => (/[",\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);
  const text = rows.map((row) => row.map(quoted).join(",")).join("\n") + "\n";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = `${name.replace(/[^\w-]+/g, "_")}.csv`;
  link.click();
  URL.revokeObjectURL(link.href);
};
const offer = (before, name, rows) => {
  const button = document.createElement("button");
  button.className = "csv";
  button.textContent = "CSV";
  button.title = "Save these numbers as a file";
  button.addEventListener("click", () => save(name, rows()));
  before.before(button);
};
for (const table of document.querySelectorAll("table")) {
  const experiment = table.closest("article")?.querySelector("h3")?.id.replace(/^(x|paper)-/, "");
  const cells = (row) => [...row.cells].map((cell) => cell.textContent);
  offer(table.parentElement, [experiment, table.dataset.name].filter(Boolean).join("-"), () => [...table.rows].map(cells));
}
const number = "[-+\u2212]?\\d[\\d.]*(?:e[-+]?\\d+)?";
const numbers = new RegExp(`: (${number})(?: \\[(${number}), (${number})\\])?`);
for (const plate of document.querySelectorAll(".plate")) {
  const row = (figure, mark) => {
    const text = mark.querySelector("title").textContent;
    const [, value = "", low = "", high = ""] = text.match(numbers) || [];
    return [figure.querySelector("figcaption")?.textContent ?? "", text.split(":")[0], value, low, high, text];
  };
  const figures = [...plate.querySelectorAll("figure")].filter((figure) => figure.querySelector(".m, .late"));
  const rows = () => {
    draw(plate);
    return figures.flatMap((figure) => [...figure.querySelectorAll(".m")].map((mark) => row(figure, mark)));
  };
  const header = ["figure", "mark", "value", "low", "high", "text"];
  if (figures.length) offer(plate.querySelector(".panels"), plate.id, () => [header, ...rows()]);
}

const entries = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
const headings = [...document.querySelectorAll("h2[id], h3[id]")].filter((one) => entries.has(one.id));
const follow = () => {
  const above = headings.filter((one) => one.getBoundingClientRect().top < innerHeight / 3);
  const here = entries.get((above.at(-1) ?? headings[0])?.id);
  for (const link of entries.values()) link.toggleAttribute("aria-current", link === here);
  const [list, place] = [document.querySelector("nav"), here?.getBoundingClientRect()];
  const box = list.getBoundingClientRect();
  if (place && place.top < box.top) list.scrollTop += place.top - box.top;
  if (place && place.bottom > box.bottom) list.scrollTop += place.bottom - box.bottom;
};
const unfold = () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let up = target; up; up = up.parentElement) if (up.tagName === "DETAILS") up.open = true;
  target?.scrollIntoView();
};
let waiting = false;
addEventListener("scroll", () => {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => ((waiting = false), follow()));
}, { passive: true });
addEventListener("hashchange", unfold);
addEventListener("beforeprint", () => document.querySelectorAll("details.entry").forEach((one) => (one.open = true)));
if (location.hash) unfold();
follow();
