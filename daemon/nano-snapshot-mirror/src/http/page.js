const main = document.querySelector("main");
const live = document.querySelector("#live");
let source;
function open() {
  source = new EventSource("events");
  source.addEventListener("page", (event) => {
    main.innerHTML = event.data;
    live.textContent = "live";
  });
  source.onerror = () => (live.textContent = "no answer, trying again");
}
document.addEventListener("visibilitychange", () => {
  source.close();
  if (!document.hidden) open();
});
open();
