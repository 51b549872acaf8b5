// SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
// SPDX-License-Identifier: MIT
// Keeps the changing part of a page fresh.  Only what differs is changed, so focus, selection and scrolling stay.
"use strict";

(() => {
  const FRAGMENT = "X-Inflight-Fragment";
  const EVERY = 1000; // milliseconds; more for a page that takes long to make
  const region = document.getElementById("live");
  const away = document.getElementById("away");
  const status = document.getElementById("status");
  const pause = document.getElementById("pause");
  if (!region && !away) return;

  let paused = false;
  let busy = false;
  let timer = 0;
  let fresh = new Date();

  function say(state, text) {
    status.dataset.state = state;
    // It is read out when it changes: once, not every second.
    if (status.textContent !== text) status.textContent = text;
    if (region) region.classList.toggle("stale", state === "lost");
  }

  function since() {
    return fresh.toTimeString().slice(0, 8);
  }

  // Not node.id: of a form that is its input with the name "id".
  const keyOf = (node) => (node.nodeType === 1 ? node.getAttribute("id") || node.dataset.key || "" : "");
  const alike = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && keyOf(a) === keyOf(b);

  function morph(old, wanted) {
    if (old.isEqualNode(wanted)) return;
    if (old.nodeType !== 1) {
      old.nodeValue = wanted.nodeValue;
      return;
    }
    for (const { name } of [...old.attributes]) if (!wanted.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of [...wanted.attributes])
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    morphChildren(old, wanted);
  }

  function morphChildren(old, wanted) {
    const keyed = new Map();
    for (const child of old.children) if (keyOf(child)) keyed.set(keyOf(child), child);
    let at = old.firstChild;
    for (const next of [...wanted.childNodes]) {
      const key = keyOf(next);
      let found = key ? keyed.get(key) : at;
      if (found && !alike(found, next)) found = null;
      if (!found) {
        old.insertBefore(document.adoptNode(next), at);
        continue;
      }
      keyed.delete(key);
      if (found === at) at = at.nextSibling;
      else old.insertBefore(found, at);
      morph(found, next);
    }
    while (at) {
      const next = at.nextSibling;
      at.remove();
      at = next;
    }
  }

  function swap(text) {
    const wanted = new DOMParser().parseFromString(text, "text/html").getElementById("live");
    if (!wanted) return;
    const focused = document.activeElement;
    const inside = region.contains(focused);
    morphChildren(region, wanted);
    // One that was moved has lost the focus; of one that is gone, the page has it.
    if (inside && document.activeElement !== focused)
      (focused.isConnected ? focused : document.getElementById("main")).focus({ preventScroll: true });
  }

  async function poll() {
    if (busy || paused || document.hidden) return;
    busy = true;
    const began = performance.now();
    try {
      const answer = await fetch(location.href, {
        headers: { [FRAGMENT]: "1" },
        cache: "no-store",
        signal: AbortSignal.timeout(15000),
      });
      if (!answer.headers.has(FRAGMENT)) say("lost", "Signed out? Load the page again");
      else if (answer.ok) {
        if (away) return location.reload();
        swap(await answer.text());
        fresh = new Date();
        say("live", "Live");
      } else if (answer.status === 503) say("lost", away ? "Redis is away" : `Redis is away; this is of ${since()}`);
      else if (answer.status === 404) say("lost", `Gone; this is of ${since()}`);
      else say("lost", `The server fails (${answer.status}); this is of ${since()}`);
    } catch {
      say("lost", `The server cannot be reached; this is of ${since()}`);
    } finally {
      busy = false;
    }
    later(Math.max(EVERY, 3 * (performance.now() - began)));
  }

  function later(milliseconds) {
    clearTimeout(timer);
    timer = setTimeout(poll, milliseconds);
  }

  // A checkbox that selects all others of its table.
  document.addEventListener("change", (event) => {
    if (!event.target.matches(".all")) return;
    for (const box of event.target.closest("table").querySelectorAll("input[type=checkbox]"))
      box.checked = event.target.checked;
  });

  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.textContent = paused ? "Go on" : "Pause";
    if (paused) say("still", "Paused");
    else poll();
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) poll();
  });
  if (away) say("lost", "Redis is away");
  else say("live", "Live");
  later(EVERY);
})();
