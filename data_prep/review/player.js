// Plays the frames of a clip, which come as one picture with alpha, over a background of the page's own; and the keyboard.
(() => {
  const GROUNDS = ["checker", "black", "white", "any", "alpha"];
  const state = { spec: null, sheet: null, frame: 0, playing: true, last: 0 };
  window.reviewPlayer = state;  // for tests and the curious
  const find = (selector) => document.querySelector(selector);

  function draw() {
    const { spec, sheet, frame } = state, canvas = find(".player canvas");
    if (!spec || !sheet || !canvas) return;
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    const left = (frame % spec.columns) * spec.width, top = Math.floor(frame / spec.columns) * spec.height;
    context.drawImage(sheet, left, top, spec.width, spec.height, 0, 0, canvas.width, canvas.height);
    find(".player .scrub").value = frame;
    find(".player .frame").textContent = `${frame * spec.stride + 1} / ${(spec.frames - 1) * spec.stride + 1}`;
  }

  function tick(now) {
    if (state.playing && state.sheet && now - state.last >= 1000 / state.spec.fps - 2) {
      state.last = now;
      state.frame = (state.frame + 1) % state.spec.frames;
      draw();
    }
    requestAnimationFrame(tick);
  }

  function play(on) {
    state.playing = on;
    const button = find(".player .play");
    if (button) button.innerHTML = `<i class="${on ? "pause" : "go"}"></i>`;
  }

  function step(by) {
    if (!state.spec) return;
    play(false);
    state.frame = (state.frame + by + state.spec.frames) % state.spec.frames;
    draw();
  }

  function ground(name) {
    const player = find(".player");
    player.dataset.ground = name;
    player.style.setProperty("--any", find(".player .any").value);
    player.querySelectorAll(".grounds button, .grounds .any").forEach((item) =>
      item.classList.toggle("chosen", (item.dataset.ground || "any") === name));
  }

  function load(spec) {
    const isNew = !state.spec || state.spec.key !== spec.key;
    state.spec = spec;
    if (!isNew) return;
    Object.assign(state, { sheet: null, frame: 0 });
    const canvas = find(".player canvas"), problem = find(".player .problem");
    Object.assign(canvas, { width: spec.width, height: spec.height });
    find(".player .scrub").max = spec.frames - 1;
    find(".player .facts").textContent = spec.facts;
    problem.textContent = "";
    const sheet = new Image();
    sheet.onload = () => {
      if (state.spec.key !== spec.key) return;  // somebody went on meanwhile
      state.sheet = sheet;
      draw();
      if (spec.next) new Image().src = spec.next;
    };
    sheet.onerror = async () => {
      const answer = await fetch(spec.url).then((r) => r.text()).catch((error) => String(error));
      if (state.spec.key === spec.key) problem.textContent = answer;
    };
    sheet.src = spec.url;
    const address = new URL(location);
    address.searchParams.set("clip", spec.key);
    history.replaceState(null, "", address);
  }

  function press(id) { const button = document.getElementById(id); if (button) button.click(); }

  const KEYS = {
    a: () => press("accept"), r: () => press("reject"), u: () => press("undecide"),
    n: () => press("next"), p: () => press("previous"), arrowright: () => press("next"), arrowleft: () => press("previous"),
    " ": () => play(!state.playing), ",": () => step(-1), ".": () => step(1),
    b: () => ground(GROUNDS[(GROUNDS.indexOf(find(".player").dataset.ground) + 1) % GROUNDS.length]),
    e: () => { const field = find("#field-short_en textarea"); if (field) field.focus(); },
  };

  document.addEventListener("keydown", (event) => {
    const target = event.target;
    if (event.key === "Escape" && target.blur) target.blur();
    if (target.closest && target.closest("input:not([type=range]):not([type=color]), textarea, [role=listbox]")) return;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const act = KEYS[event.key.toLowerCase()];
    if (act && find(".player")) { event.preventDefault(); act(); }
  });

  document.addEventListener("click", (event) => {
    const chosen = event.target.closest && event.target.closest(".grounds button");
    if (chosen) { ground(chosen.dataset.ground); chosen.blur(); }
    if (event.target.closest && event.target.closest(".player .play")) { play(!state.playing); event.target.blur(); }
    if (event.target.matches && event.target.matches(".player .any")) ground("any");
    if (event.target.closest && event.target.closest("#buttons button")) { moved(); event.target.blur(); }
  });

  // Whatever changes a text (keys, an input method, pasting, dropping) is saved a moment later, and at the latest after
  // SOON: the hidden button sends the clip's key and all fields.  Buttons that move on save by themselves.
  const SOON = 500, PAUSE = 120;
  let pending = null, since = 0;
  function save() { clearTimeout(pending); pending = null; press("save"); }
  function saveSoon() {
    if (pending === null) since = performance.now();
    clearTimeout(pending);
    pending = setTimeout(save, Math.max(0, Math.min(PAUSE, since + SOON - performance.now())));
  }
  function moved() { clearTimeout(pending); pending = null; }

  document.addEventListener("focusout", (event) => { if (pending !== null && event.target.closest("#form")) save(); });
  document.addEventListener("input", (event) => {
    if (event.target.closest("#form") && event.target.matches("textarea, input[type=text]")) saveSoon();
    if (event.target.matches(".player .any")) ground("any");
    if (event.target.matches(".player .scrub")) { play(false); state.frame = Number(event.target.value); draw(); }
  });

  // Gradio writes the next clip into #spec; whenever that changes, load it.
  let seen = "";
  setInterval(() => {
    const told = find("#spec .spec"), player = find(".player canvas");
    if (!told || !player || told.dataset.spec === seen) return;
    seen = told.dataset.spec;
    load(JSON.parse(seen));
    if (!find(".grounds .chosen")) ground("checker");
  }, 60);
  requestAnimationFrame(tick);
})();
