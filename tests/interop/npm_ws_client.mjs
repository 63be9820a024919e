// Has the conversation of conversation.py as a client, with npm's ws.
//
//     node npm_ws_client.mjs ADDRESS COMPRESSION [AUTHORITY.pem]
//
// COMPRESSION is empty if the server is expected to decline it. Exits 0 if everything was as it should be.
import assert from "node:assert/strict";
import { randomBytes, randomInt } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import WebSocket from "ws";

const [address, compression, authority] = process.argv.slice(2);
// A client offers permessage-deflate by default.
const options = { maxPayload: 64 << 20, ...(authority && { ca: readFileSync(authority) }) };

async function connect(path) {
  const socket = new WebSocket(address + path, ["other", "chat"], options);
  const messages = [];
  let wake = () => {};
  socket.on("message", (data, binary) => {
    messages.push(binary ? data : data.toString());
    wake();
  });
  let end = null;
  socket.receive = async () => {
    while (messages.length === 0) {
      assert.equal(end, null, "the connection was closed instead");
      await new Promise((resolve) => (wake = resolve));
    }
    return messages.shift();
  };
  socket.closed = once(socket, "close").then(([code, reason]) => {
    end = [code, reason.toString()];
    wake();
    return end;
  });
  socket.answer = once(socket, "pong");
  await once(socket, "open");
  assert.equal(socket.protocol, "chat");
  assert.equal(socket.extensions.startsWith("permessage-deflate"), compression !== "");
  return socket;
}

// Pieces of random sizes, some of them empty.
function* pieces(whole) {
  for (let begin = 0; begin < whole.length; ) {
    const most = [0, 1, 200, 1 << 17][randomInt(4)];
    const end = Math.min(whole.length, begin + randomInt(most + 1));
    yield whole.subarray(begin, end);
    begin = end;
  }
}

const sizes = [0, 1, 125, 126, 127, 65535, 65536, 65537, 4 << 20];
const echo = await connect("/echo");
for (const size of sizes) {
  echo.send("x".repeat(size));
  assert.equal(await echo.receive(), "x".repeat(size));
  echo.send(Buffer.alloc(size, 0xff));
  assert.deepEqual(await echo.receive(), Buffer.alloc(size, 0xff));
}
// 16 MiB of 64 different records, which fit into small windows, in random order.
const records = Array.from({ length: 64 }, () => randomBytes(16));
const large = Buffer.alloc(16 << 20);
for (let begin = 0; begin < large.length; begin += 16) records[randomInt(64)].copy(large, begin);
echo.send(large);
assert.ok(large.equals(await echo.receive()));
// A little less: what is beyond ASCII takes two bytes, and ws sends the message in one frame.
const text = large.toString("latin1", 0, 10 << 20);
echo.send(text);
assert.ok(text === (await echo.receive()));
const noise = randomBytes(1 << 20);
echo.send(noise);
assert.ok(noise.equals(await echo.receive()));
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

const scattered = await connect("/scatter");
for (const size of [0, 1, 2, 125, 126, 127, 1000, 65535, 65536, 65537, 300000]) {
  for (const whole of [Buffer.alloc(size, "and so on "), randomBytes(size)]) {
    for (const piece of pieces(whole)) scattered.send(piece, { fin: false });
    scattered.send(Buffer.alloc(0), { fin: true });
    assert.ok(whole.equals(await scattered.receive()), `scattered ${size}`);
  }
}
scattered.close();

const fragments = await connect("/fragments");
assert.equal(await fragments.receive(), "fragmented in pieces");
assert.deepEqual(await fragments.closed, [1000, ""]);

const close = await connect("/close");
assert.deepEqual(await close.closed, [4001, "as you wished"]);

const ping = await connect("/ping");
assert.equal(await ping.receive(), "pong");
assert.deepEqual(await ping.closed, [1000, ""]);

console.log("the conversation is over");
