// What every peer on Node.js does; each file beside this one adds one library. Two roles:
//
//   node PEER.cjs server                listens, prints its port, then for each message a hash of its text and its control id
//   node PEER.cjs client PORT PLAN      sends the messages of a plan (JSON), and prints code and control id of each answer
//
// A peer gives `serve(got)`, which returns the port, and `connect(port)`, which returns a connection with
// `ask(text)`: send and return the answer's text; `fire(text)`: send at once, without a wait; `close()`.
const { createHash } = require('node:crypto');
const { readFileSync } = require('node:fs');

function print(text) {
  const body = text.replace(/^\x0b/, '').replace(/\x1c\r$/, '');
  console.log(`${createHash('sha256').update(body).digest('hex')} ${body.split('|')[9]}`);
}

async function send(connect, port, { messages, each, waits }) {
  let connection;
  for (const text of messages) {
    connection ??= await connect(port);
    if (waits) {
      const answer = await connection.ask(text);
      console.log(answer.slice(answer.indexOf('MSA|')).split(/[\r\x1c]/)[0]);
    } else {
      connection.fire(text);
    }
    if (each) {
      await connection.close();
      connection = undefined;
    }
  }
  await connection?.close();
}

exports.run = async ({ serve, connect }) => {
  const [role, port, plan] = process.argv.slice(2);
  try {
    if (role === 'server') {
      console.log(await serve(print));
    } else {
      await send(connect, Number(port), JSON.parse(readFileSync(plan)));
      process.exit(0);
    }
  } catch (error) {
    console.error(error);
    process.exit(1);
  }
};

// Several libraries do not say which port they took.
exports.freePort = () =>
  new Promise((resolve) => {
    const probe = require('node:net').createServer();
    probe.listen(0, '127.0.0.1', () => {
      const { port } = probe.address();
      probe.close(() => resolve(port));
    });
  });
