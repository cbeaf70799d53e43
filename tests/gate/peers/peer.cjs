// Upstream's own HL7 client and server as one program; tests/gate/test_peers.py starts it and reads its lines.
//
//   node peer.cjs hl7-from-5 server 0          listens, prints its port, then each control id; answers with a plain AA
//   node peer.cjs hl7-from-5 client 2575 A B   sends each in turn on one connection, prints the code and control id of each answer
const path = require('node:path');
const [library, role, port, ...names] = process.argv.slice(2);
const { Hl7Client, Hl7Server } = require(library);
// The core that belongs to this version: it may be the library's own or the folder's.
const core = require(require.resolve('@medplum/core', { paths: [path.dirname(require.resolve(library))] }));

async function serve() {
  const server = new Hl7Server((connection) => {
    connection.addEventListener('message', ({ message }) => {
      console.log(message.getSegment('MSH').getField(10).toString());
      connection.send(message.buildAck());
    });
    connection.addEventListener('error', () => undefined);
  });
  await server.start(Number(port));
  console.log(server.server.address().port);
}

async function send() {
  const client = new Hl7Client({ host: '127.0.0.1', port: Number(port), keepAlive: true });
  for (const name of names) {
    const text = `MSH|^~\\&|DEV|LAB|MED|PLUM|20261125||ADT^A01|${name}|P|2.5\rPID|1||7\r`;
    const answer = await client.sendAndWait(core.Hl7Message.parse(text));
    const msa = answer.getSegment('MSA');
    console.log(`${msa.getField(1)} ${msa.getField(2)}`);
  }
  await client.close();
}

(role === 'server' ? serve() : send()).catch((error) => {
  console.error(error);
  process.exit(1);
});
