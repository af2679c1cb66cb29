"use strict";
(() => {
  const MISSING = "–";
  // Tables with fewer rows are read, not searched.
  const LONG = 30;
  const THEMES = ["auto", "light", "dark"];
  const SCROLLING = ".wide, .drawing, .scroll";
  const found = document.getElementById("evidence");
  const evidence = found ? JSON.parse(found.textContent) : null;

  // Elements hold text only: nothing on this page is parsed as HTML again.
  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === true) made.setAttribute(name, "");
      else if (value !== false && value !== null) made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }

  // Theme
  function setUpTheme() {
    const button = document.getElementById("theme");
    let theme = 0;
    button.hidden = false;
    button.addEventListener("click", () => {
      theme = (theme + 1) % THEMES.length;
      if (theme) document.documentElement.dataset.theme = THEMES[theme];
      else delete document.documentElement.dataset.theme;
      button.textContent = `Theme: ${THEMES[theme]}`;
    });
  }

  // Commands
  function setUpCopying() {
    for (const button of document.querySelectorAll(".copy")) {
      button.hidden = false;
      button.addEventListener("click", async () => {
        const source = document.getElementById(button.dataset.copy);
        try {
          await navigator.clipboard.writeText(source.textContent);
          button.textContent = "Copied";
        } catch {
          getSelection().selectAllChildren(source);
          button.textContent = "Selected";
        }
      });
    }
  }

  // Boxes that are narrower than what is in them: the style shows at which sides there is more.
  function markSides(box) {
    const sides = [];
    if (box.scrollLeft > 1) sides.push("left");
    if (box.scrollLeft < box.scrollWidth - box.clientWidth - 1) sides.push("right");
    if (sides.length) box.dataset.more = sides.join(" ");
    else delete box.dataset.more;
  }

  const sizes = new ResizeObserver((entries) =>
    requestAnimationFrame(() => entries.forEach(({ target }) => markSides(target.closest(SCROLLING)))),
  );

  function watchSides(box) {
    box.addEventListener("scroll", () => markSides(box), { passive: true });
    for (const each of [box, ...box.children]) sizes.observe(each);
  }

  // Tables
  class Grid {
    constructor(table) {
      this.table = table;
      this.body = table.tBodies[0];
      this.rows = [...this.body.rows];
      this.heads = [...table.tHead.rows[0].cells];
      this.details = new Map();
      this.filters = [];
      this.controls = element("div", { class: "controls" });
      table.closest(".wide").before(this.controls);
      this.heads.forEach((head) => this.makeSortable(head));
      if (this.rows.length > LONG || table.classList.contains("evidence")) this.addFilters();
      if (evidence && table.classList.contains("evidence")) {
        this.addColumns();
        this.addOpeners();
      }
    }

    name() {
      return this.table.caption.textContent;
    }

    textOf(row, head) {
      return row.cells[head.cellIndex].textContent.trim();
    }

    // Sorting
    makeSortable(head) {
      const button = element("button", { type: "button" }, head.textContent.trim());
      head.replaceChildren(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => this.sort(head, head.getAttribute("aria-sort") !== "ascending"));
    }

    sort(head, ascending) {
      for (const each of this.table.tHead.rows[0].cells) {
        if (each.hasAttribute("aria-sort")) each.setAttribute("aria-sort", "none");
      }
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const keys = new Map(this.rows.map((row) => [row, keyOf(row.cells[head.cellIndex])]));
      this.rows.sort((one, other) => compare(keys.get(one), keys.get(other), ascending ? 1 : -1));
      for (const row of this.rows) {
        this.body.append(row);
        if (this.details.has(row)) this.body.append(this.details.get(row));
      }
    }

    // Filters
    addFilters() {
      const search = element("input", { type: "search", placeholder: "words in a row", "aria-label": `Filter: ${this.name()}` });
      search.addEventListener("input", () => this.filter());
      this.filters.push((row) => {
        const text = shownText(row);
        return search.value.toLowerCase().split(/\s+/).every((word) => text.includes(word));
      });
      this.controls.append(element("label", {}, "Filter ", search));
      for (const head of this.heads.filter((each) => each.hasAttribute("data-choice"))) this.addChoice(head);
      this.count = element("output", { "aria-live": "polite" });
      this.controls.append(this.count);
      this.filter();
    }

    addChoice(head) {
      const texts = [...new Set(this.rows.map((row) => this.textOf(row, head)))];
      const select = element("select", {}, element("option", { value: "" }, "all"));
      select.append(...texts.map((text, index) => element("option", { value: String(index) }, text)));
      select.addEventListener("change", () => this.filter());
      this.filters.push((row) => select.value === "" || this.textOf(row, head) === texts[Number(select.value)]);
      this.controls.append(element("label", {}, `${head.textContent.trim()} `, select));
    }

    filter() {
      let shown = 0;
      for (const row of this.rows) {
        row.hidden = !this.filters.every((matches) => matches(row));
        if (this.details.has(row)) this.details.get(row).hidden = row.hidden;
        shown += row.hidden ? 0 : 1;
      }
      this.count.textContent = `${shown} of ${this.rows.length} rows`;
    }

    // Columns
    addColumns() {
      const choices = element("div", { class: "choices", role: "group", "aria-label": "Columns to show" });
      this.heads.forEach((head) => choices.append(this.choiceOf(head.textContent.trim(), true, (shown) => this.show(head, shown))));
      evidence.facts.forEach(([name, formula], number) => {
        let head = null;
        const choice = this.choiceOf(name, false, (shown) => {
          if (!head) head = this.addColumn(name, number);
          this.show(head, shown);
        });
        choice.title = formula;
        choices.append(choice);
      });
      this.controls.append(element("details", {}, element("summary", {}, "Columns"), choices));
    }

    choiceOf(name, checked, change) {
      const box = element("input", { type: "checkbox" });
      box.checked = checked;
      box.addEventListener("change", () => change(box.checked));
      return element("label", {}, box, name);
    }

    addColumn(name, number) {
      const head = element("th", { scope: "col", class: "right" }, name);
      this.table.tHead.rows[0].append(head);
      this.makeSortable(head);
      for (const row of this.rows) {
        const fact = factOf(row, number);
        const order = fact && fact[2] !== null ? String(fact[2]) : null;
        row.append(element("td", { class: "right", "data-order": order }, fact ? fact[1] : MISSING));
      }
      this.spanDetails();
      return head;
    }

    show(head, shown) {
      const index = head.cellIndex;
      head.hidden = !shown;
      for (const row of this.rows) row.cells[index].hidden = !shown;
      this.filter();
    }

    // Rows that open
    addOpeners() {
      this.table.tHead.rows[0].prepend(element("td", { class: "open" }));
      this.rows.forEach((row, number) => {
        const what = [...row.cells].slice(0, 3).map((cell) => cell.textContent.trim()).join(", ");
        const button = element("button", { type: "button", "aria-expanded": "false", "aria-label": `Details of ${what}` }, "▸");
        button.addEventListener("click", () => this.toggle(row, button));
        row.dataset.row = String(number);
        row.prepend(element("td", { class: "open" }, button));
      });
    }

    toggle(row, button) {
      const opens = !this.details.has(row);
      button.setAttribute("aria-expanded", String(opens));
      button.textContent = opens ? "▾" : "▸";
      if (opens) {
        const detail = element("tr", { class: "detail" }, element("td", {}, detailsOf(row)));
        this.details.set(row, detail);
        row.after(detail);
        this.spanDetails();
      } else {
        this.details.get(row).remove();
        this.details.delete(row);
      }
    }

    spanDetails() {
      const columns = this.table.tHead.rows[0].cells.length;
      for (const detail of this.details.values()) detail.cells[0].colSpan = columns;
    }
  }

  function shownText(row) {
    return [...row.cells].filter((cell) => !cell.hidden).map((cell) => cell.textContent).join(" ").toLowerCase();
  }

  function keyOf(cell) {
    if (cell.dataset.order !== undefined) return Number(cell.dataset.order);
    const text = cell.textContent.trim();
    return text === MISSING ? null : text;
  }

  // What is not known comes last, in both directions.
  function compare(one, other, direction) {
    if (one === null || other === null) return (one === null) - (other === null);
    if (typeof one === "number" && typeof other === "number") return direction * (one - other);
    if (typeof one !== typeof other) return typeof one === "number" ? -1 : 1;
    return direction * one.localeCompare(other, "en", { numeric: true });
  }

  // What stands behind a row
  function entryOf(row) {
    return evidence.rows[Number(row.dataset.row ?? row.sectionRowIndex)];
  }

  function factOf(row, number) {
    return entryOf(row).facts.find((fact) => fact[0] === number);
  }

  function detailsOf(row) {
    const entry = entryOf(row);
    const facts = entry.facts.map(([number, text]) => [evidence.facts[number][0], text, evidence.facts[number][1]]);
    const inside = element("div", { class: "inside" });
    inside.append(element("h3", {}, "Launches"), launchTable(entry.launches));
    if (!evidence.complete) inside.append(element("p", { class: "note" }, "The repetitions of so large a run stand only in its raw files."));
    else inside.append(element("h3", {}, "Timed repetitions"), repetitionTable(entry.launches));
    inside.append(element("h3", {}, "All columns"), innerTable(["column", "value", "meaning"], facts, "All columns of this cell"));
    return inside;
  }

  function innerTable(heads, rows, label, classes = []) {
    const table = element("table", { class: "inner" });
    table.append(element("thead", {}, element("tr", {}, ...heads.map((head, n) => element("th", { scope: "col", class: classes[n] || null }, head)))));
    const body = element("tbody");
    for (const row of rows) {
      body.append(element("tr", { class: row.excluded ? "excluded" : null }, ...row.map((text, n) => element("td", { class: classes[n] || null }, String(text)))));
    }
    table.append(body);
    const box = element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, table);
    watchSides(box);
    return box;
  }

  function launchTable(launches) {
    const heads = ["launch", "process", "trial", "raw file", "status", "gate", "note"];
    const rows = launches.map((each) => [
      each.launch, each.process, each.trial, each.file, [each.status, each.reason].filter(Boolean).join(": "), each.gate, each.note,
    ]);
    return innerTable(heads, rows, "Launches of this cell", ["right", "right"]);
  }

  function repetitionTable(launches) {
    const heads = ["launch", "repetition", "block", "time per call", "calls", "timestamps", "counts"];
    const rows = [];
    for (const { launch, repetitions } of launches) {
      for (const [number, block, time, calls, timestamped, why] of repetitions) {
        const row = [launch, number, block ?? MISSING, time, calls, timestamped ? "yes" : "no", why ? `no: ${why}` : "yes"];
        row.excluded = Boolean(why);
        rows.push(row);
      }
    }
    return rows.length
      ? innerTable(heads, rows, "Timed repetitions of this cell", ["right", "right", "right", "right", "right"])
      : element("p", { class: "note" }, "no timed repetition");
  }

  // A folded part is printed too.
  function setUpPrinting() {
    let opened = [];
    addEventListener("beforeprint", () => {
      opened = [...document.querySelectorAll("details:not([open])")].filter((each) => !each.closest(".controls"));
      for (const each of opened) each.open = true;
    });
    addEventListener("afterprint", () => {
      for (const each of opened) each.open = false;
    });
  }

  // Frames
  function setUpFrames(section) {
    const pictures = [...section.querySelectorAll("img")];
    const [slider] = section.querySelectorAll("input");
    const [button] = section.querySelectorAll("button");
    const [said] = section.querySelectorAll("output");
    let timer = null;
    function show(number) {
      slider.value = number;
      pictures.forEach((each, place) => (each.hidden = place !== number));
      said.textContent = `${number + 1} of ${pictures.length}`;
    }
    function stop() {
      clearInterval(timer);
      timer = null;
      button.textContent = "Play";
      said.setAttribute("aria-live", "polite");
    }
    slider.addEventListener("input", () => {
      stop();
      show(Number(slider.value));
    });
    button.addEventListener("click", () => {
      if (timer) return stop();
      button.textContent = "Stop";
      said.setAttribute("aria-live", "off");
      timer = setInterval(() => show((Number(slider.value) + 1) % pictures.length), Number(section.dataset.ms));
    });
    section.querySelector(".controls").hidden = false;
    show(0);
  }

  setUpTheme();
  setUpCopying();
  for (const section of document.querySelectorAll("section.frames")) setUpFrames(section);
  setUpPrinting();
  for (const box of document.querySelectorAll(SCROLLING)) watchSides(box);
  for (const table of document.querySelectorAll("table.sortable")) new Grid(table);
})();
