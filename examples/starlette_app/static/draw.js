// A grid to draw on; each change goes over the WebSocket, each answer is shown.
const SIZE = 8, INK = 16;
const element = (id) => document.getElementById(id);
const socket = new WebSocket(new URL("/drawing", location.href.replace(/^http/, "ws")));
const pixels = Array.from({ length: SIZE }, () => Array(SIZE).fill(0));
const cells = pixels.map((_, row) => pixels.map((_, column) => cell(row, column)));
let drawing = false;

function cell(row, column) {
  const made = document.createElement("button");
  made.type = "button";
  made.tabIndex = row || column ? -1 : 0; // Tab enters the grid, the arrow keys move in it
  made.setAttribute("role", "gridcell");
  made.dataset.row = row;
  made.dataset.column = column;
  return made;
}

function draw(row, column, ink) {
  pixels[row][column] = ink;
  const shade = (ink * 255) / INK;
  cells[row][column].style.background = `rgb(${shade} ${shade} ${shade})`;
  cells[row][column].setAttribute("aria-label", `Row ${row + 1}, column ${column + 1}, ${ink ? "drawn" : "empty"}`);
}

function send() {
  if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ pixels }));
}

function place(event) {
  const { row, column } = document.elementFromPoint(event.clientX, event.clientY)?.dataset ?? {};
  return row === undefined ? null : [Number(row), Number(column)];
}

function drawAt(event) {
  const found = place(event);
  if (!found || pixels[found[0]][found[1]] === INK) return;
  draw(...found, INK);
  send();
}

const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

function onKey(event) {
  const row = Number(event.target.dataset.row), column = Number(event.target.dataset.column);
  const move = MOVES[event.key];
  const next = move && cells[row + move[0]]?.[column + move[1]];
  if (next) {
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }
  if (event.key === " ") {
    draw(row, column, pixels[row][column] ? 0 : INK);
    send();
  }
  if (move || event.key === " ") event.preventDefault();
}

const grid = element("pixels");
cells.forEach((line) => {
  const row = document.createElement("div");
  row.setAttribute("role", "row");
  row.style.display = "contents";
  row.append(...line);
  grid.append(row);
});
grid.style.touchAction = "none";
grid.addEventListener("keydown", onKey);
grid.addEventListener("pointerdown", (event) => {
  drawing = true;
  event.target.releasePointerCapture?.(event.pointerId);
  drawAt(event);
});
grid.addEventListener("pointermove", (event) => drawing && drawAt(event));
addEventListener("pointerup", () => (drawing = false));

function clear() {
  pixels.forEach((line, row) => line.forEach((_, column) => draw(row, column, 0)));
  element("state").textContent = "Draw something.";
  element("digit").textContent = "?";
  element("sure").textContent = "";
}

element("clear").addEventListener("click", clear);
socket.addEventListener("open", send); // what was drawn before
socket.addEventListener("message", ({ data }) => {
  if (!pixels.flat().some(Boolean)) return; // the answer to a picture that was cleared meanwhile
  const { digit, confidence, backend } = JSON.parse(data);
  element("state").textContent = "It looks like a";
  element("digit").textContent = digit;
  element("sure").textContent = `${backend} is ${Math.round(confidence * 100)} % sure.`;
});
socket.addEventListener("close", () => (element("state").textContent = "The reader is gone; reload the page."));
clear();
