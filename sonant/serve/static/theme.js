// Before anything is painted: the colours that were chosen last, or else the system's.
{
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let chosen = "system";
  const paint = () => {
    document.documentElement.dataset.theme = chosen === "system" ? (dark.matches ? "dark" : "light") : chosen;
  };
  try {
    chosen = JSON.parse(localStorage.getItem("sonant.settings") || "{}").theme || "system";
  } catch {
    // nothing was chosen, or this browser keeps nothing
  }
  paint();
  dark.addEventListener("change", paint);
  document.addEventListener("theme", (event) => {
    chosen = event.detail;
    paint();
  });
}
