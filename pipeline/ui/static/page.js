// Live numbers, drops of a sheet, and one click for each form. The page works without it.
(() => {
  const follow = (box) => {
    const source = new EventSource(box.dataset.live);
    source.addEventListener("live", (event) => { box.innerHTML = event.data; });
    source.addEventListener("changed", () => htmx.trigger("#actions", "changed"));
    addEventListener("pagehide", () => source.close());
  };
  const send = async (drop, file) => {
    const said = drop.querySelector("[role=status]");
    said.textContent = `Reading ${file.name}…`;
    const answer = await fetch(`/upload?name=${encodeURIComponent(file.name)}`, {
      method: "POST", body: file, headers: { "content-type": "application/octet-stream" },
    });
    if (answer.ok) { location.assign(await answer.text()); return; }
    said.textContent = await answer.text();
  };
  const receive = (drop) => {
    const input = drop.querySelector("input[type=file]");
    input.addEventListener("change", () => send(drop, input.files[0]));
    drop.addEventListener("dragover", (event) => event.preventDefault());
    drop.addEventListener("drop", (event) => {
      event.preventDefault();
      if (event.dataTransfer.files.length) send(drop, event.dataTransfer.files[0]);
    });
  };
  // On a narrow screen, the open row is below the table.
  const show = () => document.querySelector("#beside:not(:empty)")?.scrollIntoView({ block: "nearest" });
  addEventListener("htmx:afterSwap", show);
  show();
  const each = (what, act, box = document) => box.querySelectorAll(what).forEach(act);
  each("[data-live]", follow);
  each("[data-drop]", receive);
  const off = (box, is) => each("button", (one) => { one.disabled = is; }, box);
  addEventListener("submit", (event) => setTimeout(off, 0, event.target, true));
  addEventListener("pageshow", () => off(document));
})();
