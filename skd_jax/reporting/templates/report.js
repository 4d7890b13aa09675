"use strict";
const tip = document.getElementById("tip");
const main = document.querySelector("main");
let pinned = null;

function element(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

function percent(p) {
  if (p === null) return "unknown";
  const value = 100 * p;
  if (value > 0 && value < 0.0001) return "< 0.0001 %";
  const digits = value >= 99.95 ? 0 : value >= 1 ? 1 : value >= 0.01 ? 2 : 4;
  return value.toFixed(digits) + " %";
}

function odds(name, p) {
  const bar = element("i", "");
  bar.style.width = (100 * (p || 0)) + "%";
  return element("div", "odds " + name, percent(p), bar);
}

function fill(token) {
  const [text, proposed, favourite, rank, student, teacher, emitted] =
    JSON.parse(token.dataset.token);
  const replaced = token.classList.contains("teacher");
  const list = element("dl", "");
  const row = (className, name, child) => list.append(
    element("dt", className, name), element("dd", "", child));
  if (replaced) {
    row("", "Emitted", element("code", "", text));
    row("detail", "teacher gave it", odds("teacher", emitted));
  }
  row("", "Student proposed", element("code", "", proposed));
  row("detail", "student gave it", odds("student", student));
  row("detail", "teacher gave it", odds("teacher", teacher));
  row("detail", "teacher's rank", rank + " (0 is the best)");
  row("", "Teacher's first", element("code", "", favourite));
  tip.className = replaced ? "teacher" : "";
  tip.replaceChildren(element("h3", "",
    replaced ? "Replaced by the teacher" : "Written by the student, accepted"),
    list);
}

function show(token) {
  // A token that wraps has one box per line: the tip belongs to the first.
  const box = token.getClientRects()[0];
  if (!box) { tip.hidden = true; return; }  // Folded away.
  fill(token);
  tip.hidden = false;
  const width = document.documentElement.clientWidth;
  const left = Math.min(box.left, width - tip.offsetWidth - 8);
  const below = box.bottom + 8;
  const fits = below + tip.offsetHeight < innerHeight;
  const top = fits || box.top < tip.offsetHeight + 8
    ? below : box.top - tip.offsetHeight - 8;
  tip.style.left = Math.max(8, left) + scrollX + "px";
  tip.style.top = top + scrollY + "px";
  token.setAttribute("aria-describedby", "tip");
}

function hide() {
  if (pinned) show(pinned); else tip.hidden = true;
}

function pin(token) {
  if (pinned) pinned.classList.remove("pinned");
  pinned = token;
  if (token) token.classList.add("pinned");
  try {
    history.replaceState(null, "", token ? "#" + token.id : "#");
  } catch (error) { /* Some viewers forbid changing the address. */ }
  hide();
}

const tokenOf = (event) => event.target.closest &&
  event.target.closest(".response .token");
addEventListener("change", (event) => {
  if (event.target.name === "filter") pin(null); else hide();
});
addEventListener("resize", hide);
main.addEventListener("mouseover", (event) => {
  const token = tokenOf(event);
  if (token) show(token);
});
main.addEventListener("mouseout", hide);
main.addEventListener("focusin", (event) => {
  const token = tokenOf(event);
  if (token) show(token);
});
main.addEventListener("focusout", hide);
addEventListener("click", (event) => {
  const token = tokenOf(event);
  if (token) pin(token === pinned ? null : token);
  else if (pinned && !tip.contains(event.target)) pin(null);
});
addEventListener("keydown", (event) => {
  if (event.key === "Escape") { pin(null); return; }
  const token = tokenOf(event);
  if (!token) return;
  if (event.key === "Enter") pin(token);
  const all = [...token.parentNode.querySelectorAll(".token")];
  const at = all.indexOf(token);
  const to = {ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0,
    End: all.length - 1}[event.key];
  if (to === undefined || !all[to]) return;
  event.preventDefault();
  token.tabIndex = -1;
  all[to].tabIndex = 0;
  all[to].focus();
});

const target = document.getElementById(location.hash.slice(1));
if (target && target.matches(".response .token")) {
  target.closest("details").open = true;
  target.scrollIntoView({block: "center"});
  pin(target);
}
