// Fills the choice of a version. What there is says versions.js, which lies beside the versions' directories: a script
// and not JSON, because a browser fetches no JSON for pages that are opened as files.
document.addEventListener("DOMContentLoaded", () => {
  const versions = window.hyperflowVersions || [];
  for (const select of document.querySelectorAll("select.version-switch")) {
    const { here, root, page } = select.dataset;
    for (const { name, title } of versions) {
      if (name === here) {
        select.options[0].text = title;
      } else {
        select.add(new Option(title, name));
      }
    }
    select.addEventListener("change", () => {
      const chosen = versions.find(({ name }) => name === select.value);
      const target = chosen.pages.includes(page) ? page : "index";
      window.location.href = `${root}../${chosen.name}/${target}.html`;
    });
  }
});
