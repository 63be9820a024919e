// npm's ws as a client of the benchmarks of compression: the process that
// compressed_clients.py is for Python.
//
//     node npm_ws.mjs MESSAGES.json ADDRESS SERVER_PROCESS
//
// MESSAGES.json holds the messages to send, by size. Reads lines "<scenario> <size> <count>" and
// answers each with a JSON list: seconds on the wall clock, and of processor time of both ends.
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import WebSocket from "ws";

const [path, address, server] = process.argv.slice(2);
const texts = JSON.parse(readFileSync(path, "utf8"));
// A client in good hands: without the check that browsers do in C++ as well.
const options = { maxPayload: 0 };

function now() {
  const { user, system } = process.cpuUsage();
  // The first figure: nanoseconds that its threads ran.
  const other = Number(readFileSync(`/proc/${server}/schedstat`, "utf8").split(" ")[0]);
  return [performance.now() / 1e3, (user + system) / 1e6 + other / 1e9];
}

async function measure(scenario, size, count) {
  const socket = new WebSocket(`${address}/${scenario}/${size}/${count}`, options);
  let received = 0;
  let onEvery = () => {};
  let wanted = Infinity;
  let resolve;
  const all = new Promise((done) => (resolve = done));
  socket.on("message", (data) => {
    // Python's clients make a str of each, too.
    data.toString();
    if (++received === wanted) resolve();
    else onEvery();
  });
  await once(socket, "open");
  if (!socket.extensions.startsWith("permessage-deflate")) throw new Error("not compressed");
  const messages = texts[size];
  let sent = 0;
  const next = () => socket.send(messages[sent++ % messages.length]);
  const start = now();
  switch (scenario.replace("fresh-", "")) {
    case "pingpong":
      wanted = count;
      onEvery = next;
      next();
      break;
    case "receive":
      wanted = count;
      socket.send("!");
      break;
    case "send":
      wanted = 1;
      while (sent < count) {
        next();
        // send() only queues: without a look at the queue all would be in it.
        if (socket.bufferedAmount > 65536) await new Promise((done) => setImmediate(done));
      }
      break;
  }
  await all;
  const end = now();
  const closed = once(socket, "close");
  socket.close(1000);
  await closed;
  return [end[0] - start[0], end[1] - start[1]];
}

console.log("ready");
for await (const line of createInterface({ input: process.stdin })) {
  const [scenario, size, count] = line.split(" ");
  console.log(JSON.stringify(await measure(scenario, size, Number(count))));
}
