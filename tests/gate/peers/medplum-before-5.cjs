// @medplum/hl7 before 5.0.0, upstream's own client and server.
require('./medplum.cjs')('hl7-before-5');
