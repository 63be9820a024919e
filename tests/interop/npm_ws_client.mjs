// Has the conversation of conversation.py as a client, with npm's ws.
//
//     node npm_ws_client.mjs ADDRESS [AUTHORITY.pem]
//
// Exits 0 if everything was as it should be.
import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import WebSocket from "ws";

const [address, authority] = process.argv.slice(2);
const options = authority ? { ca: readFileSync(authority) } : {};
// A client offers permessage-deflate by default: syncws declines it.

async function connect(path) {
  const socket = new WebSocket(address + path, ["other", "chat"], options);
  const messages = [];
  let wake = () => {};
  socket.on("message", (data, binary) => {
    messages.push(binary ? data : data.toString());
    wake();
  });
  socket.receive = async () => {
    while (messages.length === 0) await new Promise((resolve) => (wake = resolve));
    return messages.shift();
  };
  socket.closed = once(socket, "close").then(([code, reason]) => [code, reason.toString()]);
  socket.answer = once(socket, "pong");
  await once(socket, "open");
  assert.equal(socket.protocol, "chat");
  assert.equal(socket.extensions, "");
  return socket;
}

const sizes = [0, 1, 125, 126, 127, 65535, 65536, 65537, 4 << 20];
const echo = await connect("/echo");
for (const size of sizes) {
  echo.send("x".repeat(size));
  assert.equal(await echo.receive(), "x".repeat(size));
  echo.send(Buffer.alloc(size, 0xff));
  assert.deepEqual(await echo.receive(), Buffer.alloc(size, 0xff));
}
echo.send("h\u00e9llo \u4e16\u754c \u{1f9e6}");
assert.equal(await echo.receive(), "h\u00e9llo \u4e16\u754c \u{1f9e6}");

for (let number = 0; number < 1000; number++) echo.send(String(number));
for (let number = 0; number < 1000; number++) assert.equal(await echo.receive(), String(number));

echo.send("fragmented ", { fin: false });
echo.ping("between the frames");
echo.send("", { fin: false });
echo.send("in pieces");
assert.equal(await echo.receive(), "fragmented in pieces");
assert.equal((await echo.answer)[0].toString(), "between the frames");

echo.close(3001, "done");
// RFC 6455 section 5.5.1: the code comes back; syncws does not repeat the reason.
assert.deepEqual(await echo.closed, [3001, ""]);

const fragments = await connect("/fragments");
assert.equal(await fragments.receive(), "fragmented in pieces");
assert.deepEqual(await fragments.closed, [1000, ""]);

const close = await connect("/close");
assert.deepEqual(await close.closed, [4001, "as you wished"]);

const ping = await connect("/ping");
assert.equal(await ping.receive(), "pong");
assert.deepEqual(await ping.closed, [1000, ""]);

console.log("the conversation is over");
