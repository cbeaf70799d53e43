// Upstream's client and server, of one version.
const path = require('node:path');
const { run } = require('./conversation.cjs');

module.exports = (library) => {
  const { Hl7Client, Hl7Server } = require(library);
  // The core that belongs to this version: it may be the library's own or the folder's.
  const { Hl7Message } = require(require.resolve('@medplum/core', { paths: [path.dirname(require.resolve(library))] }));
  run({
    async serve(got) {
      const server = new Hl7Server((connection) => {
        connection.addEventListener('message', ({ message }) => {
          got(message.toString());
          connection.send(message.buildAck());
        });
        connection.addEventListener('error', () => undefined);
      });
      await server.start(0);
      return server.server.address().port;
    },
    async connect(port) {
      const client = new Hl7Client({ host: '127.0.0.1', port, keepAlive: true });
      const connection = await client.connect();
      return {
        ask: async (text) => (await connection.sendAndWait(Hl7Message.parse(text))).toString(),
        fire: (text) => connection.send(Hl7Message.parse(text)),
        close: () => client.close(),
      };
    },
  });
};
