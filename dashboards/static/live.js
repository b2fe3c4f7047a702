"use strict";
// Without this script the page is complete, only not live.
const page = document.querySelector("[data-events]");
const status = document.querySelector("#live");
let refreshing = false;

async function refresh(token) {
  if (refreshing || token === page.dataset.token) return;
  refreshing = true;
  try {
    const answer = await fetch(page.dataset.fragment);
    if (!answer.ok) throw new Error(answer.statusText);
    page.innerHTML = await answer.text();
    page.dataset.token = answer.headers.get("X-Token");
    status.textContent = "live";
  } catch {
    status.textContent = "not reachable; trying again";
  } finally {
    refreshing = false;
  }
}

const source = new EventSource(page.dataset.events);
source.addEventListener("open", () => { status.textContent = "live"; });
source.addEventListener("error", () => { status.textContent = "connection lost; trying again"; });
source.addEventListener("trouble", () => { status.textContent = "the store does not answer"; });
source.addEventListener("change", (event) => refresh(event.data));
