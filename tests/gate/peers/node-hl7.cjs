// node-hl7-client and node-hl7-server. The client sends when it is connected; `awaitingResponse` shows an answer.
const { Client, Message } = require('node-hl7-client');
const { Server } = require('node-hl7-server');
const { once } = require('node:events');
const { freePort, run } = require('./conversation.cjs');

run({
  async serve(got) {
    const port = await freePort();
    const inbound = new Server({ bindAddress: '127.0.0.1' }).createInbound({ port }, async (req, res) => {
      await res.sendResponse('AA');
    });
    inbound.on('data.raw', got);
    inbound.on('data.error', (error) => console.error(error));
    inbound.on('client.error', () => undefined);
    await once(inbound, 'listen');
    return port;
  },
  async connect(port) {
    let answered;
    const client = new Client({ host: '127.0.0.1' });
    const connection = client.createConnection({ port, waitAck: true }, (response) => {
      answered(response.getMessage().toString());
    });
    connection.on('client.error', () => undefined);
    await once(connection, 'connect');
    return {
      ask: (text) =>
        new Promise((resolve, reject) => {
          answered = resolve;
          connection.sendMessage(new Message({ text })).catch(reject);
        }),
      fire: (text) => {
        answered = () => undefined;
        connection._awaitingResponse = false;
        connection.sendMessage(new Message({ text }));
      },
      close: async () => {
        await new Promise((resolve) => setImmediate(resolve));
        await connection.close();
      },
    };
  },
});
