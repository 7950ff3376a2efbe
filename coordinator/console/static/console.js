// Keeps the page as it is now. Without this file everything is there; it is only not renewed by itself.
"use strict";

const main = document.querySelector("main");
if (main && main.dataset.live === "yes" && "EventSource" in window) {
  const page = location.pathname + location.search;
  const events = new EventSource("/live?page=" + encodeURIComponent(page));
  events.addEventListener("main", (event) => {
    const active = document.activeElement;
    if (active && main.contains(active) && active.matches("input, textarea, select")) return; // somebody is typing
    const open = [...main.querySelectorAll("details[open]")].map((one) => one.id);
    main.innerHTML = JSON.parse(event.data);
    for (const id of open) if (id) main.querySelector("#" + CSS.escape(id))?.setAttribute("open", "");
  });
  const state = document.querySelector("#live");
  events.onopen = () => { state.textContent = "live"; state.className = "live on"; };
  events.onerror = () => { state.textContent = "not connected"; state.className = "live off"; };
  window.addEventListener("pagehide", () => events.close());
}
