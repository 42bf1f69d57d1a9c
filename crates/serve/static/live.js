// Follows a run on its page. Without this script the page reloads itself every few seconds.
"use strict";
(() => {
  const place = document.getElementById("live");
  const done = document.getElementById("done");
  const bar = document.getElementById("progress");
  const status = document.getElementById("status");
  if (!place || !window.EventSource) return;
  const id = encodeURIComponent(place.dataset.run);
  const source = new EventSource("/v1/runs/" + id + "/events");
  let seen = 0;
  let isRead = false;
  const show = (count) => {
    done.textContent = String(count);
    bar.value = count;
  };
  source.addEventListener("sample.completed", () => {
    seen += 1;
    show(Math.max(seen, Number(bar.value)));
  });
  source.addEventListener("samples.reopened", (event) => {
    seen -= JSON.parse(event.data).data.samples;
  });
  source.addEventListener("run.started", () => { status.textContent = "running"; });
  source.addEventListener("run.completed", () => { isRead = true; });
  source.addEventListener("run.status", () => { isRead = true; });
  source.onerror = () => {
    // The stream ends with the run: its results are on the page now.
    if (isRead) {
      source.close();
      window.location.reload();
    }
  };
})();
