// @medplum/hl7 from 5.0.0, upstream's own client and server.
require('./medplum.cjs')('hl7-from-5');
