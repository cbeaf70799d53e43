// simple-hl7: its parser, TCP client and TCP server.
const hl7 = require('simple-hl7');
const { once } = require('node:events');
const { freePort, run } = require('./conversation.cjs');

run({
  async serve(got) {
    const port = await freePort();
    const app = hl7.tcp();
    app.use((req, res) => {
      got(req.raw);
      res.end();
    });
    app.use((error, _req, _res, _next) => console.error(error));
    const server = app.start(port);
    await once(server.server, 'listening');
    return port;
  },
  async connect(port) {
    const parser = new hl7.Parser({ segmentSeperator: '\r' });
    const client = hl7.Server.createTcpClient({ host: '127.0.0.1', port, keepalive: true });
    await new Promise((resolve, reject) => client.connect((error) => (error ? reject(error) : resolve())));
    client.client.removeAllListeners('error').on('error', () => undefined);
    return {
      ask: (text) =>
        new Promise((resolve, reject) =>
          client.send(parser.parse(text), (error, answer) => {
            // It forgets that it waits only after this call.
            setImmediate(() => (error ? reject(error) : resolve(answer.toString())));
          }),
        ),
      fire: (text) => {
        client.awaitingResponse = false;
        client.send(parser.parse(text), () => undefined);
      },
      close: () => client.close(),
    };
  },
});
