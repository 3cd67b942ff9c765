(() => {
  const table = document.querySelector("[data-papers]");
  if (!table) return;
  const finder = document.querySelector("[data-finder]");
  const words = finder.querySelector("[data-words]");
  const filters = [...finder.querySelectorAll("[data-filter]")];
  const count = finder.querySelector("[data-count]");
  const nothing = document.querySelector("[data-nothing]");
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => ({ row, text: row.textContent.toLowerCase() }));

  for (const filter of filters) {
    const key = filter.dataset.filter;
    const values = new Set(rows.flatMap(({ row }) => row.dataset[key].split("|")));
    const sorted = [...values].sort((a, b) => (key === "year" ? b - a : a.localeCompare(b)));
    for (const value of sorted) filter.add(new Option(value, value));
  }

  const show = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const { row, text } of rows) {
      const fits =
        wanted.every((word) => text.includes(word)) &&
        filters.every((f) => !f.value || row.dataset[f.dataset.filter].split("|").includes(f.value));
      row.hidden = !fits;
      shown += fits;
    }
    count.textContent = shown === rows.length ? `${shown} papers` : `${shown} of ${rows.length}`;
    if (rows.length === 1) count.textContent = "";
    nothing.hidden = shown > 0;
    const query = new URLSearchParams();
    if (words.value) query.set("words", words.value);
    for (const f of filters) if (f.value) query.set(f.dataset.filter, f.value);
    const search = query.toString();
    history.replaceState(null, "", search ? `?${search}` : location.pathname + location.hash);
  };

  const sort = (column, header) => {
    const down = header.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const sign = down ? -1 : 1;
    const key = ({ row }) => row.cells[column].innerText.trim();
    rows.sort((a, b) => sign * key(a).localeCompare(key(b), undefined, { numeric: true }));
    body.append(...rows.map(({ row }) => row));
  };

  [...table.tHead.rows[0].cells].forEach((header, column) =>
    header.querySelector("button").addEventListener("click", () => sort(column, header)),
  );
  const asked = new URLSearchParams(location.search);
  words.value = asked.get("words") ?? "";
  for (const f of filters) {
    const value = asked.get(f.dataset.filter);
    if ([...f.options].some((option) => option.value === value)) f.value = value;
  }
  words.addEventListener("input", show);
  for (const f of filters) f.addEventListener("change", show);
  nothing.querySelector("[data-reset]").addEventListener("click", () => {
    words.value = "";
    for (const f of filters) f.value = "";
    show();
  });
  finder.hidden = false;
  show();
})();
