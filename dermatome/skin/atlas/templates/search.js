const box = document.getElementById("search");
const rows = [...document.querySelectorAll("tr.gene")];
const texts = rows.map((row) => row.textContent.toLowerCase());
box.addEventListener("input", () => {
  const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  rows.forEach((row, n) => {
    row.hidden = !words.every((word) => texts[n].includes(word));
    count += !row.hidden;
  });
  document.getElementById("count").textContent = `${count} of ${rows.length} genes`;
});
