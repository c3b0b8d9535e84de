// Before anything is painted: the colours that were chosen last.
try {
  document.documentElement.dataset.theme = JSON.parse(localStorage.getItem("sonant.settings") || "{}").theme || "system";
} catch {
  document.documentElement.dataset.theme = "system";
}
