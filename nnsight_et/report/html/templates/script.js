for (const svg of document.querySelectorAll("figure svg")) {
  const marks = [...svg.querySelectorAll(".m")];
  const told = svg.parentElement.querySelector("output");
  if (!marks.length || !told) continue;
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
}
