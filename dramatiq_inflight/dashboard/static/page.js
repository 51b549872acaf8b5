// SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
// SPDX-License-Identifier: MIT
// Tells the server where the visitor is, copies, and goes by keyboard.  Without it the pages show UTC, and work.
"use strict";

(() => {
  const dialog = document.getElementById("keys");
  const open = document.getElementById("keys-open");
  const off = document.getElementById("keys-off");
  const status = document.getElementById("status");
  const OFF = "inflight-keys-off";

  const home = document.querySelector(".brand").pathname;
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  if (zone) document.cookie = `inflight-zone=${zone}; path=${home}; max-age=31536000; samesite=strict`;

  // A class, for what works with JavaScript alone; it stays while the page changes.
  document.documentElement.classList.add("live");

  async function copy(button) {
    const text = button.dataset.copy;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // There is no clipboard without HTTPS; this is how it was done before.
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
      button.focus({ preventScroll: true });
    }
    status.textContent = "Copied";
    button.textContent = "Copied";
    button.classList.add("done");
    setTimeout(() => {
      button.textContent = "Copy";
      button.classList.remove("done");
    }, 1500);
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest(".copy");
    if (button) copy(button);
  });

  const rowOf = (node) => node.closest("#live tbody tr, #live .events li");

  function step(by) {
    const rows = [...document.querySelectorAll("#live tbody tr, #live .events li")].filter((row) => row.querySelector("a"));
    const at = rows.indexOf(rowOf(document.activeElement));
    const next = rows[at < 0 ? (by > 0 ? 0 : rows.length - 1) : at + by];
    if (next) next.querySelector("a").focus();
  }

  const KEYS = {
    "/": () => document.querySelector("main input[type=search]")?.select(),
    j: () => step(1),
    k: () => step(-1),
    c: () => (rowOf(document.activeElement) || document.querySelector(".whole-id"))?.querySelector(".copy")?.click(),
    p: () => document.getElementById("pause").click(),
    "?": () => dialog.showModal(),
  };

  function isOff() {
    try {
      return localStorage.getItem(OFF) === "1";
    } catch {
      return false; // nothing may be stored
    }
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing || dialog.open || isOff()) return;
    if (event.target.closest("input:not([type=checkbox]), select, textarea")) return;
    const page = document.querySelectorAll(".top nav a")[Number(event.key) - 1];
    const act = page ? () => page.click() : KEYS[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });

  function show() {
    off.setAttribute("aria-pressed", String(isOff()));
  }

  off.addEventListener("click", () => {
    try {
      localStorage.setItem(OFF, isOff() ? "0" : "1");
    } catch {
      // nothing may be stored
    }
    show();
  });
  open.addEventListener("click", () => dialog.showModal());
  open.hidden = false;
  show();
})();
