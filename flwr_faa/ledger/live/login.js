"use strict";
const field = document.getElementById("token");
const problem = document.getElementById("problem");

async function enter(token) {
  const headers = { Authorization: `Bearer ${token}` };
  const reply = await fetch("/login", { method: "POST", headers }).catch(() => null);
  if (reply && reply.ok) location.replace("/");
  else problem.textContent = reply ? "This is not the token." : "The server does not answer.";
}

document.getElementById("form").addEventListener("submit", (event) => {
  event.preventDefault();
  enter(field.value.trim());
});

if (location.hash.length > 1) {
  const token = decodeURIComponent(location.hash.slice(1));
  history.replaceState(null, "", "/"); // not into the history
  enter(token);
}
