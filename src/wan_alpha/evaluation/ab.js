"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const store = `wan-alpha-study-${data.study}`;
const stage = new Stage();
const rater = document.getElementById("rater");
let votes = {}, position = 0, player = null, shownAt = 0;

function load() {
  try { const kept = JSON.parse(localStorage.getItem(store) || "{}"); votes = kept.votes || {}; rater.value = kept.rater || ""; }
  catch { votes = {}; }
}

function save() {
  try { localStorage.setItem(store, JSON.stringify({rater: rater.value, votes})); } catch { /* a page from disk may not keep anything */ }
}

function show() {
  const pair = data.pairs[position], done = Object.keys(votes).length;
  document.getElementById("count").textContent = `${position + 1} of ${data.pairs.length}, ${done} answered`;
  document.getElementById("progress").value = done / data.pairs.length;
  document.getElementById("prompt").textContent = pair.text;
  if (player) player.close();
  player = new Player(document.getElementById("player"), stage, videoUrl(`video-${pair.id}`), data.players[pair.id]);
  player.video.play().catch(() => {});
  const chosen = votes[pair.id] && votes[pair.id].choice;
  document.getElementById("vote").replaceChildren(...[["left", "A is better"], ["tie", "no difference"], ["right", "B is better"]].map(
    ([choice, label]) => element("button", {"data-choice": choice, "aria-pressed": String(chosen === choice), onclick: () => vote(choice)}, label)));
  shownAt = performance.now();
}

function vote(choice) {
  const pair = data.pairs[position];
  votes[pair.id] = {choice, seconds: Math.round((performance.now() - shownAt) / 100) / 10, background: stage.colour};
  save();
  if (position + 1 < data.pairs.length) position += 1;
  show();
}

function exportVotes() {
  const content = {study: data.study, rater: rater.value.trim(), exported: new Date().toISOString(),
    votes: Object.entries(votes).map(([pair, vote]) => ({pair, ...vote}))};
  const url = URL.createObjectURL(new Blob([JSON.stringify(content, null, 2)], {type: "application/json"}));
  const name = (rater.value.trim() || "anonymous").replace(/[^\p{L}\p{N}_-]+/gu, "_");
  const link = element("a", {href: url, download: `votes-${data.study}-${name}.json`});
  document.body.append(link); link.click(); link.remove();
}

load();
rater.addEventListener("input", save);
document.getElementById("stage").append(stage.controls());
document.getElementById("export").addEventListener("click", exportVotes);
document.getElementById("back").addEventListener("click", () => { if (position > 0) { position -= 1; show(); } });
document.addEventListener("keydown", event => {
  // Held keys, a browser's own shortcuts and what is typed or pressed elsewhere are no votes.
  if (event.repeat || event.altKey || event.ctrlKey || event.metaKey || ["INPUT", "SELECT"].includes(event.target.tagName)) return;
  if (event.key === " " && event.target.tagName === "BUTTON") return;
  const choice = {1: "left", ArrowLeft: "left", 2: "right", ArrowRight: "right", 0: "tie", " ": "tie"}[event.key];
  if (choice) { event.preventDefault(); vote(choice); }
});
position = Math.max(0, data.pairs.findIndex(pair => !votes[pair.id]));
show();
