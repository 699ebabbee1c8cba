// Plays one video that holds several systems side by side: above, colours times alpha; below, 1 - alpha.
// Per frame: background x (1 - alpha) + colours, on a 2D canvas, without reading a pixel back.
"use strict";

const BACKGROUNDS = ["checkerboard", "white", "black", "grey", "red", "green", "blue", "magenta"];
const CODES = {white: "#fff", black: "#000", grey: "#808080", red: "#f00", green: "#0f0", blue: "#00f", magenta: "#f0f"};

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.map(child => child ?? ""));
  return node;
}

class Stage {
  // One background and one view for every player of the page.
  constructor() { this.colour = "checkerboard"; this.view = "composite"; this.backdrop = null; this.players = new Set(); }

  use(file) {
    const url = URL.createObjectURL(file);
    const isVideo = file.type.startsWith("video");
    this.backdrop = element(isVideo ? "video" : "img", {src: url});
    if (isVideo) { this.backdrop.muted = true; this.backdrop.loop = true; this.backdrop.play(); }
    this.backdrop.addEventListener(isVideo ? "loadeddata" : "load", () => this.redraw());
    this.colour = "file";
  }

  redraw() { for (const player of this.players) player.draw(); }

  controls() {
    const bar = element("div", {class: "controls", role: "group", "aria-label": "background and view"});
    const mark = () => { for (const b of bar.querySelectorAll("button[data-colour]"))
      b.setAttribute("aria-pressed", String(b.dataset.colour === this.colour)); };
    for (const name of BACKGROUNDS) {
      const look = name === "checkerboard" ? "" : `background:${CODES[name]}`;
      bar.append(element("button", {class: `swatch ${name}`, "data-colour": name, style: look, title: name,
        "aria-label": `background ${name}`, onclick: () => { this.colour = name; mark(); this.redraw(); }}));
    }
    const own = element("input", {type: "color", value: "#40a0ff", title: "any colour", "aria-label": "any colour",
      oninput: event => { this.colour = event.target.value; mark(); this.redraw(); }});
    const file = element("input", {type: "file", accept: "video/*,image/*", id: "backdrop",
      onchange: event => { if (event.target.files[0]) { this.use(event.target.files[0]); mark(); } }});
    const view = element("select", {"aria-label": "view", onchange: event => { this.view = event.target.value; this.redraw(); }},
      ...["composite", "colour", "alpha"].map(name => element("option", {value: name}, name)));
    bar.append(own, element("label", {class: "file", for: "backdrop"}, "your video or picture …"), file, view);
    mark();
    return bar;
  }
}

class Player {
  // Fills `holder` with the systems of one video; `names` maps a system to what stands under its picture.
  constructor(holder, stage, url, layout, names = {}) {
    this.stage = stage; this.layout = layout; this.video = element("video", {src: url, playsinline: "", loop: ""});
    this.video.muted = true;
    this.views = [];
    const row = element("div", {class: "row"});
    for (const [system, [left, width]] of Object.entries(layout.cells)) {
      const canvas = element("canvas", {width: width, height: layout.height});
      this.views.push({canvas, left, width});
      row.append(element("figure", {style: `max-width:${2 * width}px`}, canvas, element("figcaption", {}, names[system] ?? system)));
    }
    this.seek = element("input", {type: "range", min: 0, max: 1, step: "any", value: 0, "aria-label": "position",
      oninput: event => { this.video.pause(); this.video.currentTime = Number(event.target.value); }});
    this.button = element("button", {class: "play", onclick: () => this.video.paused ? this.video.play() : this.video.pause()}, "play");
    const step = by => () => { this.video.pause(); this.video.currentTime += by / (layout.fps || 24); };
    holder.replaceChildren(row, element("div", {class: "transport"}, this.button,
      element("button", {title: "one frame back", onclick: step(-1)}, "◂"),
      element("button", {title: "one frame on", onclick: step(1)}, "▸"), this.seek));
    for (const event of ["loadeddata", "seeked"]) this.video.addEventListener(event, () => this.draw());
    this.video.addEventListener("loadedmetadata", () => { this.seek.max = this.video.duration; });
    this.video.addEventListener("play", () => { this.button.textContent = "pause"; this.loop(); });
    this.video.addEventListener("pause", () => { this.button.textContent = "play"; });
    stage.players.add(this);
  }

  loop() {
    if (this.video.paused || !this.views[0].canvas.isConnected) return;
    this.draw();
    this.seek.value = this.video.currentTime;
    requestAnimationFrame(() => this.loop());
  }

  close() { this.video.pause(); this.stage.players.delete(this); }

  draw() {
    if (this.video.readyState < 2) return;
    for (const {canvas, left, width} of this.views) {
      const context = canvas.getContext("2d"), height = this.layout.height;
      const paint = (row, mode) => { context.globalCompositeOperation = mode;
        context.drawImage(this.video, left, row * height, width, height, 0, 0, width, height); };
      context.globalCompositeOperation = "source-over";
      if (this.stage.view === "alpha") {
        context.fillStyle = "#fff"; context.fillRect(0, 0, width, height); paint(1, "difference");
      } else if (this.stage.view === "colour") {
        context.fillStyle = "#000"; context.fillRect(0, 0, width, height); paint(0, "lighter");
      } else {
        this.ground(context, width, height); paint(1, "multiply"); paint(0, "lighter");
      }
    }
  }

  ground(context, width, height) {
    const colour = this.stage.colour, cell = 16;
    if (colour === "file" && this.stage.backdrop) {
      const from = this.stage.backdrop;
      const w = from.videoWidth || from.naturalWidth || 1, h = from.videoHeight || from.naturalHeight || 1;
      const fit = Math.max(width / w, height / h);
      context.drawImage(from, (width - w * fit) / 2, (height - h * fit) / 2, w * fit, h * fit);
    } else if (colour === "checkerboard" || colour === "file") {
      context.fillStyle = "#fff"; context.fillRect(0, 0, width, height);
      context.fillStyle = "#ccc";
      for (let y = 0; y < height; y += cell) for (let x = (y / cell % 2) * cell; x < width; x += 2 * cell)
        context.fillRect(x, y, cell, cell);
    } else {
      context.fillStyle = CODES[colour] ?? colour; context.fillRect(0, 0, width, height);
    }
  }
}

function videoUrl(id) {
  const node = document.getElementById(id);
  if (!node) return null;
  const bytes = Uint8Array.from(atob(node.textContent.trim()), c => c.charCodeAt(0));
  return URL.createObjectURL(new Blob([bytes], {type: "video/webm"}));
}
