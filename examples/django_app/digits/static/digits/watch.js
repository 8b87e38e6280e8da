// Draws the rows of a picture, and writes the guesses down, as the server sends them.
const element = (id) => document.getElementById(id);
const canvas = element("picture").getContext("2d");
const events = new EventSource(element("watch").dataset.events);
let rows = 0;

function draw(pixels, row) {
  pixels.forEach((value, column) => {
    canvas.fillStyle = `rgb(${Array(3).fill((value * 255) / 16).join()})`;
    canvas.fillRect(column, row, 1, 1);
  });
}

function note(...cells) {
  const line = element("guesses").insertRow();
  for (const cell of cells) line.insertCell().textContent = cell;
}

events.onmessage = ({ data }) => {
  const { pixels, digit, confidence } = JSON.parse(data);
  draw(pixels, rows);
  rows += 1;
  note(rows, digit, `${Math.round(confidence * 100)} %`);
  element("guess").textContent = digit;
  element("state").textContent = `After ${rows} of 8 rows:`;
};
events.addEventListener("done", () => {
  events.close();
  element("state").textContent = "All of it seen:";
});
events.onerror = () => {
  events.close();
  element("state").textContent = "The picture cannot be watched now.";
};
