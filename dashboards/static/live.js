"use strict";
// Without this script the page is complete, only not live.
const page = document.querySelector("[data-events]");
const status = document.querySelector("#live");
let refreshing = false;
let newest = page.dataset.token;

async function refresh() {
  if (refreshing) return;
  refreshing = true;
  try {
    while (newest !== page.dataset.token) {
      const wanted = newest;
      const answer = await fetch(page.dataset.fragment);
      if (!answer.ok) throw new Error(answer.statusText);
      page.innerHTML = await answer.text();
      page.dataset.token = answer.headers.get("X-Token");
      if (newest === wanted) newest = page.dataset.token;
    }
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
source.addEventListener("change", (event) => {
  newest = event.data;
  refresh();
});
