// A button on each block of code that copies it; what the block prints has none.
if (navigator.clipboard) {
  for (const block of document.querySelectorAll("div.highlight-python, div.highlight-bash, div.highlight-sql")) {
    const button = document.createElement("button");
    button.className = "copy";
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(block.querySelector("pre").textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    block.querySelector(".highlight").append(button);
  }
}
