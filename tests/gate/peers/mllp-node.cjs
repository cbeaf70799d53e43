// mllp-node: its MLLPServer, which is a client too. It connects for each message and closes behind the answer.
const { MLLPServer } = require('mllp-node');
const { freePort, run } = require('./conversation.cjs');

const quiet = () => undefined;

run({
  async serve(got) {
    const port = await freePort();
    const server = new MLLPServer('127.0.0.1', port, quiet);
    server.on('hl7', got);
    await new Promise((resolve) => setTimeout(resolve, 50));
    return port;
  },
  async connect(port) {
    const client = new MLLPServer('127.0.0.1', await freePort(), quiet);
    return {
      ask: (text) =>
        new Promise((resolve, reject) =>
          client.send('127.0.0.1', port, text, (error, answer) => (error ? reject(error) : resolve(answer))),
        ),
      close: quiet,
    };
  },
});
